"""What a source holds: its patches by split, and those that were left out and why."""

import csv
import dataclasses
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

from geomoe.data.tables import read_lines
from geomoe.files import atomic_open

_SKIPPED_FILE = "skipped.csv"


class Entry(NamedTuple):
    """One patch, before it is read: its unique name, the file that an error names, plain values that the reader needs."""

    id: str
    path: str
    details: Any = None


Reader = Callable[[Entry], dict[str, Any]]  # from an entry to a record; PatchError for a patch that cannot be used


class Skipped(NamedTuple):
    """A patch that was left out: the kind of flaw, its id and path, and what exactly is wrong."""

    kind: str
    id: str
    path: str
    message: str


@dataclasses.dataclass
class Listing:
    """A source's patches by split, and those that are out already at listing (an id named twice, an unknown class)."""

    splits: dict[str, list[Entry]]
    skipped: list[Skipped] = dataclasses.field(default_factory=list)

    def drop_duplicates(self) -> Self:
        """Keep the first of entries with one id, over all splits, and count the others as skipped."""
        seen: dict[str, str] = {}
        for split, entries in self.splits.items():
            self.splits[split] = []
            for entry in entries:
                if entry.id in seen:
                    message = f"the id stands in split {seen[entry.id]} already"
                    self.skipped.append(Skipped("duplicate id", entry.id, entry.path, message))
                else:
                    seen[entry.id] = split
                    self.splits[split].append(entry)
        return self


def read_splits(folder: str, name: str) -> dict[str, list[tuple[str, str]]]:
    """Read the lines of those split files that a folder has, as "eurosat-{}.txt" for train, val and test, by `read_lines`."""
    paths = {split: os.path.join(folder, name.format(split)) for split in ("train", "val", "test")}
    return {split: read_lines(path) for split, path in paths.items() if os.path.exists(path)}


def check_split(name: str) -> None:
    """Raise ValueError for a name of a split that TFDS does not take, or that is no name of a file."""
    if not re.fullmatch(r"(?!all$)[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(f"{name!r} is no name of a split, as 'train' is")


def write_skipped(folder: str | os.PathLike[str], skipped: Iterable[Skipped]) -> str:
    """Write the patches that were left out to a table in a folder; return its path."""
    path = os.path.join(folder, _SKIPPED_FILE)
    with atomic_open(path, newline="", encoding="utf-8", errors="backslashreplace") as file:  # names need not be text
        csv.writer(file).writerows([Skipped._fields, *skipped])
    return path


def read_skipped(folder: str | os.PathLike[str]) -> list[Skipped]:
    """Read which patches a prepared dataset left out."""
    path = os.path.join(folder, _SKIPPED_FILE)
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [Skipped(*row) for row in list(csv.reader(file))[1:]]

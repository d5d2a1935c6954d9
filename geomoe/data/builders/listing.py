"""What a source holds: its patches by split, and those that were left out and why."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from geomoe.files import atomic_open

SKIPPED_FILE = "skipped.csv"


class Entry(NamedTuple):
    """One patch of a source, before it is read.

    Attributes:
        id: its name, unique in the dataset.
        path: the file that an error names.
        details: what else the builder's reader needs; plain values.
    """

    id: str
    path: str
    details: Any = None


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

    def drop_duplicates(self) -> Listing:
        """Keep the first of entries with one id, over all splits, and count the others as skipped."""
        seen: dict[str, str] = {}
        for split, entries in self.splits.items():
            first = []
            for entry in entries:
                if entry.id in seen:
                    message = f"the id stands in split {seen[entry.id]} already"
                    self.skipped.append(Skipped("duplicate id", entry.id, entry.path, message))
                else:
                    seen[entry.id] = split
                    first.append(entry)
            self.splits[split] = first
        return self


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Read the lines of a split file that are not empty, without the blanks around them.

    Raises:
        ValueError: the file is no text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is no text file: {error}") from None


def write_skipped(folder: str | os.PathLike[str], skipped: Iterable[Skipped]) -> str:
    """Write the patches that were left out to a table in a folder; return its path."""
    path = os.path.join(folder, SKIPPED_FILE)
    with atomic_open(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Skipped._fields)
        writer.writerows(skipped)
    return path


def read_skipped(folder: str | os.PathLike[str]) -> list[Skipped]:
    """Read which patches a prepared dataset left out."""
    path = os.path.join(folder, SKIPPED_FILE)
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return [Skipped(*row) for row in list(csv.reader(file))[1:]]

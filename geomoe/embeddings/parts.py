"""The parts of an output while a run goes on: blocks of rows, each written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from geomoe.files import atomic_open

Columns = dict[str, np.ndarray]  # the columns of a block of rows, by name


class Parts:
    """The parts of an output, in a folder OUTPUT.parts beside it; a run that was interrupted goes on after the last one.

    `facts` are plain values that say what is being written; parts of another run, with other facts, are a ValueError.
    """

    def __init__(self, output: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
        self.folder = f"{os.fspath(output)}.parts"
        path = os.path.join(self.folder, "facts.json")
        facts = json.loads(json.dumps(facts))
        if not os.path.exists(path):
            with atomic_open(path) as file:
                json.dump(facts, file)
            return
        with open(path) as file:
            before = json.load(file)
        if differ := sorted(key for key in {*before, *facts} if before.get(key) != facts.get(key)):
            other = f"parts of another run ({', '.join(differ)} differ)"
            raise ValueError(f"{self.folder} holds {other}; remove the folder to start anew")

    def _path(self, index: int) -> str:
        return os.path.join(self.folder, f"{index:06d}.npz")

    @property
    def done(self) -> int:
        """Number of parts from the first on without a gap."""
        count = 0
        while os.path.exists(self._path(count)):
            count += 1
        return count

    def add(self, index: int, pieces: list[Columns]) -> None:
        """Write a part, the rows of some pieces after each other."""
        columns = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
        with atomic_open(self._path(index), "wb") as file:
            np.savez(file, allow_pickle=False, **columns)

    def __iter__(self) -> Iterator[Columns]:
        for index in range(self.done):
            with np.load(self._path(index), allow_pickle=False) as part:
                yield dict(part)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

"""What became of the scenes of a catalogue: `scenes.csv`, in the folder of their files of embeddings."""

import csv
import os
from collections.abc import Sequence
from typing import NamedTuple

from geomoe.files import atomic_open

RESULTS = "scenes.csv"


class SceneResult(NamedTuple):
    """What became of a scene."""

    scene: str
    output: str  # "" where there is none
    patches: int
    embedded: int
    error: str  # "" where it did not fail; beside an output that is there, why that was left as it is


def write_results(folder: str | os.PathLike[str], results: Sequence[SceneResult]) -> None:
    """Write a line for each scene to the table of a folder."""
    with atomic_open(os.path.join(folder, RESULTS), newline="") as file:
        csv.writer(file).writerows([SceneResult._fields, *results])


def read_results(folder: str | os.PathLike[str]) -> list[SceneResult]:
    """Read the table of a folder; the outputs are those of this folder, wherever it stands now.

    The folder is one of `is_catalogue`.
    """
    path = os.path.join(folder, RESULTS)
    with open(path, encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    there = lambda output: os.path.join(folder, os.path.basename(output)) if output else ""
    return [SceneResult(name, there(output), int(n), int(embedded), error) for name, output, n, embedded, error in rows]


def is_catalogue(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that `geomoe catalogue` has filled."""
    table = os.path.join(path, RESULTS)
    if not os.path.isfile(table):
        return False
    with open(table, encoding="utf-8", errors="replace") as file:
        return file.readline().strip() == ",".join(SceneResult._fields)

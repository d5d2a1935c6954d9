"""An append-only CSV of results, one row a (dataset, split, protocol, features, seed), safe under parallel runs."""

from __future__ import annotations

import contextlib
import csv
import datetime
import fcntl
import io
import os
from collections.abc import Iterator, Mapping
from typing import Any

KEY = (
    "dataset",
    "train_split",
    "test_split",
    "task",
    "protocol",
    "probe",
    "features",
    "encoder",
    "pool",
    "settings",
    "seed",
)


class Results:
    """A results file.

    Rows are only ever added. A row is written by one `write` under a lock of the file, so runs side by side (on one machine, or
    over a file system that has locks) do not mix their lines. New metrics need no new file: a row holds its key, then
    `metric=value` pairs.

    Args:
        path: the CSV; made, with its header, by the first row.
    """

    COLUMNS = (*KEY, "metrics", "intervals", "input", "time", "geomoe_version")

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Any]:
        folder = os.path.dirname(self.path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())

    def add(
        self,
        key: Mapping[str, Any],
        metrics: Mapping[str, float],
        intervals: Mapping[str, tuple[float, float]],
        given_input: str,
    ) -> None:
        """Adds a row.

        Args:
            key: a value for each of `KEY`.
            metrics, intervals: as in a `ProbeResult`.
            given_input: unit and normalisation of the images, as text.

        Raises:
            ValueError: the file is another table.
        """
        import geomoe

        row = _plain(key)
        row["metrics"] = ";".join(f"{name}={value:.6f}" for name, value in metrics.items())
        row["intervals"] = ";".join(f"{name}={low:.6f}..{high:.6f}" for name, (low, high) in intervals.items())
        row["input"], row["geomoe_version"] = given_input.replace(",", " "), geomoe.__version__
        row["time"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        with self._locked() as file:
            file.seek(0)
            header = file.readline().decode()
            if not header:
                writer.writeheader()
            elif header.strip().split(",") != list(self.COLUMNS):
                raise ValueError(f"{self.path} is no results file of this version: its header is {header.strip()!r}")
            else:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a run was killed while it wrote: its half line must not swallow ours
                    text.write("\n")
            writer.writerow(row)
            file.write(text.getvalue().encode())

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows, with `metrics` as a dict of floats and `intervals` as a dict of pairs; [] where there is no file."""
        if not os.path.exists(self.path):
            return []
        found = []
        with open(self.path, newline="") as file:
            for row in csv.DictReader(file):
                if any(row.get(name) is None for name in self.COLUMNS) or not row["metrics"]:
                    continue  # the half line of a run that was killed
                pairs = dict(item.split("=") for item in row["metrics"].split(";"))
                row["metrics"] = {name: float(value) for name, value in pairs.items()}
                spans = dict(item.split("=") for item in row["intervals"].split(";") if item)
                row["intervals"] = {name: tuple(map(float, span.split(".."))) for name, span in spans.items()}
                found.append(row)
        return found

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The last row with this key, or None."""
        wanted = _plain(key)
        return next((row for row in reversed(self.rows()) if all(row[name] == wanted[name] for name in KEY)), None)


def _plain(key: Mapping[str, Any]) -> dict[str, str]:
    """Texts that need no quotes in a CSV, so that a torn line cannot open a quote over the lines after it."""
    return {name: str(key[name]).translate(str.maketrans({",": " ", '"': "'", "\n": " ", "\r": " "})) for name in KEY}

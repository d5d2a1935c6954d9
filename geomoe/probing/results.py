"""Results on disk: CSV files of typed rows that runs side by side may add to.

`RowFile` is the format: a header, then one line for each row, a frozen dataclass of text and numbers. Rows are only ever added,
in one write under a lock of the file, so that runs side by side (on one machine, or over a file system that has locks) do
not mix their lines. The half line of a run that was killed while it wrote is dropped.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import fcntl
import io
import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from geomoe.version import __version__

RowT = TypeVar("RowT")

# What would need quotes in a CSV: a torn line must not open a quote over the lines after it.
_QUOTED = str.maketrans(dict(zip(',"\n\r', " '  ")))


def plain_text(value: Any) -> str:
    """Give a value as text that needs no quotes in a CSV.

    >>> plain_text(("mean", "metadata"))
    "('mean'  'metadata')"
    """
    return str(value).translate(_QUOTED)


def csv_text(kind: type, rows: Iterable[Any], header: bool = True) -> str:
    """Rows of a dataclass as CSV: a column for each field, floats with 8 digits."""
    out = io.StringIO()
    names = [field.name for field in dataclasses.fields(kind)]
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(names)
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow(f"{value:.8g}" if isinstance(value, float) else plain_text(value) for value in values)
    return out.getvalue()


class RowFile(Generic[RowT]):
    """A CSV file of rows of one kind.

    Args:
        path: the CSV; it is made, with its header, by the first rows.
        kind: a dataclass whose fields are str, int or float.
    """

    def __init__(self, path: str | os.PathLike, kind: type[RowT]):
        self.path, self._kind = os.fspath(path), kind
        self._types: dict[str, type] = typing.get_type_hints(kind)

    def read(self) -> list[RowT]:
        """Read all whole rows; [] where there is no file.

        Raises:
            ValueError: the file has other columns, or a line has other cells.
        """
        if not os.path.exists(self.path):
            return []
        with open(self.path, newline="\n") as file:
            lines = list(file)
        if not lines or not lines[0].endswith("\n"):
            return []
        self._check_header(lines[0])
        rows = []
        for number, cells in enumerate(csv.reader(line for line in lines[1:] if line.endswith("\n")), start=2):
            if len(cells) != len(self._types):
                raise ValueError(f"{self.path} line {number} has {len(cells)} cells, not {len(self._types)}: remove the line")
            rows.append(self._kind(*(kind(cell) for kind, cell in zip(self._types.values(), cells))))
        return rows

    def append(self, rows: Sequence[RowT]) -> None:
        """Add rows in one write.

        Raises:
            ValueError: the file has other columns.
        """
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            present = file.read()
            whole = present[: present.rfind(b"\n") + 1]
            if whole:
                self._check_header(whole.split(b"\n", 1)[0].decode())
            file.truncate(len(whole))
            file.write(csv_text(typing.cast(type, self._kind), rows, header=not whole).encode())
            file.flush()
            os.fsync(file.fileno())

    def _check_header(self, line: str) -> None:
        if line.strip().split(",") != list(self._types):
            raise ValueError(
                f"{self.path} has other columns than this version of geomoe writes (its header is {line.strip()!r}): move it "
                f"away, as with `mv {self.path} {self.path}.old`, and run again"
            )


@dataclasses.dataclass(frozen=True)
class ResultKey:
    """What tells one result from every other.

    Attributes:
        dataset, train_split, test_split, task: what was probed; `test_split` is "folds" for cross-validation.
        protocol, probe: how; "none" where no protocol was named.
        features: the encoder or the baseline.
        encoder: its source and the start of its fingerprint.
        pool: short form of the pool, as "mean+metadata".
        settings: every other option of the run, as text.
        seed: of the run.
    """

    dataset: str
    train_split: str
    test_split: str
    task: str
    protocol: str
    probe: str
    features: str
    encoder: str
    pool: str
    settings: str
    seed: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(ResultKey):
            if isinstance(value := getattr(self, field.name), str):
                object.__setattr__(self, field.name, plain_text(value))  # as it will be read again


@dataclasses.dataclass(frozen=True)
class ResultRow(ResultKey):
    """One metric of one result.

    Attributes:
        metric, value: its name and value.
        low, high: its confidence interval; NaN without one.
        metrics: how many metrics the result has: with fewer rows it was torn.
        unit, statistics: of the images and of their z-score.
        time, geomoe_version: when and by what it was written.
    """

    metric: str
    value: float
    low: float
    high: float
    metrics: int
    unit: str
    statistics: str
    time: str
    geomoe_version: str


class Scores(NamedTuple):
    """Metrics of a result, and intervals of those that have one: metric -> (low, high)."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


class Results:
    """A results file: a row for each metric of each result.

    Args:
        path: the CSV; it is made by the first result.
    """

    def __init__(self, path: str | os.PathLike):
        self._file = RowFile(path, ResultRow)

    def add(
        self,
        key: ResultKey,
        metrics: Mapping[str, float],
        intervals: Mapping[str, tuple[float, float]],
        *,
        unit: str,
        statistics: str,
    ) -> None:
        """Add a result.

        Args:
            key: what it is a result of.
            metrics, intervals: as in a `ProbeResult`.
            unit, statistics: of the images, and where those of their z-score come from.

        Raises:
            ValueError: the file has other columns.
        """
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        shared: dict[str, Any] = dataclasses.asdict(key) | dict(
            metrics=len(metrics), unit=unit, statistics=statistics, time=time, geomoe_version=__version__
        )
        nothing = (float("nan"), float("nan"))
        rows = []
        for name, value in metrics.items():
            low, high = intervals.get(name, nothing)
            rows.append(ResultRow(metric=name, value=float(value), low=float(low), high=float(high), **shared))
        self._file.append(rows)

    def read(self) -> dict[ResultKey, Scores]:
        """Read all whole results, the last one of each key; {} where there is no file.

        Raises:
            ValueError: the file has other columns.
        """
        names = [field.name for field in dataclasses.fields(ResultKey)]
        parts: dict[tuple[ResultKey, str], list[ResultRow]] = {}
        for row in self._file.read():
            key = ResultKey(**{name: getattr(row, name) for name in names})
            parts.setdefault((key, row.time), []).append(row)
        results = {}
        for (key, _), rows in parts.items():
            if len(rows) == rows[0].metrics:
                intervals = {row.metric: (row.low, row.high) for row in rows if row.low == row.low}  # NaN is none
                results[key] = Scores({row.metric: row.value for row in rows}, intervals)
        return results

    def find(self, key: ResultKey) -> Scores | None:
        """Find the last result with this key, or None."""
        return self.read().get(key)

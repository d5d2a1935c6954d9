"""Results on disk: CSV files of typed rows that runs side by side may add to."""

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
Metrics = Mapping[str, float]
Intervals = Mapping[str, tuple[float, float]]  # metric -> (low, high)

# What would need quotes in a CSV: a torn line must not open a quote over the lines after it.
_QUOTED = str.maketrans(dict(zip(',"\n\r', " '  ")))


def plain_text(value: Any) -> str:
    """Give a value as text that needs no quotes in a CSV.

    >>> plain_text(("mean", "metadata"))
    "('mean'  'metadata')"
    """
    return str(value).translate(_QUOTED)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Lay out rows as CSV, floats with 8 digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        writer.writerow(f"{value:.8g}" if isinstance(value, float) else plain_text(value) for value in row)
    return out.getvalue()


class RowFile(Generic[RowT]):
    """A CSV file: a header, then one line for each row of one kind.

    Rows are only ever added, in one write under a lock of the file, so that runs side by side (on one machine, or over a file
    system that has locks) do not mix their lines. The half line of a run that was killed while it wrote is dropped.

    Args:
        path: the CSV; it is made, with its header, by the first rows.
        kind: a dataclass whose fields are str, int or float.

    Raises:
        ValueError: by `read` and `append`, where the file has other columns, or a line has other cells.
    """

    def __init__(self, path: str | os.PathLike, kind: type[RowT]):
        self.path, self._kind = os.fspath(path), kind
        self._types: dict[str, type] = typing.get_type_hints(kind)

    def read(self) -> list[RowT]:
        """Read all whole rows; [] where there is no file."""
        if not os.path.exists(self.path):
            return []
        with open(self.path, newline="\n") as file:
            lines = [line for line in file if line.endswith("\n")]
        if not lines:
            return []
        self._check_header(lines[0])
        rows = []
        for number, cells in enumerate(csv.reader(lines[1:]), start=2):
            if len(cells) != len(self._types):
                raise ValueError(f"{self.path} line {number} has {len(cells)} cells, not {len(self._types)}: remove the line")
            rows.append(self._kind(*(kind(cell) for kind, cell in zip(self._types.values(), cells))))
        return rows

    def append(self, rows: Sequence[RowT]) -> None:
        """Add rows in one write."""
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        cells = [[getattr(row, name) for name in self._types] for row in rows]
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            present = file.read()
            whole = present[: present.rfind(b"\n") + 1]
            if whole:
                self._check_header(whole.split(b"\n", 1)[0].decode())
            file.truncate(len(whole))
            file.write(csv_text(cells if whole else [list(self._types), *cells]).encode())
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
    """What tells one result from every other."""

    dataset: str  # its name and the start of its fingerprint
    train_split: str
    test_split: str  # "folds" for cross-validation
    task: str
    protocol: str  # "none" where no protocol was named
    probe: str
    features: str  # the encoder or the baseline
    encoder: str  # its source and the starts of the fingerprints of its weights and statistics
    pool: str  # short form, as "mean+metadata"
    settings: str  # every other option of the run
    seed: int

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if name in ResultKey.__annotations__ and isinstance(value, str):
                object.__setattr__(self, name, plain_text(value))  # as it will be read again


@dataclasses.dataclass(frozen=True)
class ResultRow(ResultKey):
    """One metric of one result."""

    metric: str
    value: float
    low: float  # of the confidence interval; NaN without one
    high: float
    metrics: int  # how many the result has: with fewer rows it was torn
    unit: str  # of the images
    statistics: str  # of their z-score
    time: str  # when it was written
    geomoe_version: str


class Scores(NamedTuple):
    """Metrics of a result, and intervals of those that have one: metric -> (low, high)."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


class Results:
    """A results file: a row for each metric of each result. It is made by the first one.

    Raises:
        ValueError: by `add`, `read` and `find`, where the file has other columns.
    """

    def __init__(self, path: str | os.PathLike):
        self._file = RowFile(path, ResultRow)

    def add(self, key: ResultKey, metrics: Metrics, intervals: Intervals, *, unit: str, statistics: str) -> None:
        """Add a result: its key, metrics and intervals as in a `ProbeResult`, unit and statistics as in a `ResultRow`."""
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        shared: dict[str, Any] = dict(vars(key), metrics=len(metrics), unit=unit, statistics=statistics, time=time)
        rows = []
        for name, value in metrics.items():
            low, high = map(float, intervals.get(name, (float("nan"), float("nan"))))
            rows.append(ResultRow(**shared, metric=name, value=float(value), low=low, high=high, geomoe_version=__version__))
        self._file.append(rows)

    def read(self) -> dict[ResultKey, Scores]:
        """Read all whole results, the last one of each key; {} where there is no file."""
        parts: dict[tuple[ResultKey, str], list[ResultRow]] = {}
        for row in self._file.read():
            key = ResultKey(**{name: getattr(row, name) for name in ResultKey.__annotations__})
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

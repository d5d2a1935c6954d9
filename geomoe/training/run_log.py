"""The log of a run: progress on the terminal, metrics.csv, expert_usage.csv, TensorBoard."""

import contextlib
import csv
import datetime
import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from geomoe.files import atomic_open, names_file
from geomoe.progress import progress_bar
from geomoe.training.losses import OBJECTIVES

METRICS = "metrics.csv"
TIMING_COLUMNS = ("images_per_second", "input_wait_share")  # the columns that two equal runs may differ in
COLUMNS = (
    *("step", "epoch", "lr", "loss", "loss_masked", "loss_unmasked", "loss_balance"),
    *(f"loss_{objective.name}" for objective in OBJECTIVES),
    *("grad_norm", "param_norm", "val_loss_masked", "val_loss_unmasked", "val_loss_balance"),
    *(f"val_loss_{objective.name}" for objective in OBJECTIVES if objective.held_out),
    "val_least_used_expert",  # share of the held-out tokens of the least used expert of any block, over an even share
    *TIMING_COLUMNS,
)


USAGE_COLUMNS = ("step", "block", "expert", "share")
_NUMBERS = {*COLUMNS, *USAGE_COLUMNS} - {"block"}  # other columns, of a user's or of another version, hold any text


def read_table(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Read metrics.csv or expert_usage.csv, of a run that may still be writing it or was cut off.

    Lines that are torn are left out, as are repeated ones; of two lines of a step with values in the same columns (of a block's
    expert, in expert_usage.csv) the later stands, in the place of the first.

    Returns:
        The rows; none where there is no such file.
    """
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if line.endswith("\n")]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for row in csv.DictReader(lines):
        values = {name: value for name, value in row.items() if value}
        numbers = [value for name, value in values.items() if name in _NUMBERS]
        if None in row or None in row.values() or not row.get("step", "").isdigit() or not all(map(_is_number, numbers)):
            continue
        names = (row["block"], row["expert"]) if "block" in row else tuple(values)
        rows[(row["step"], *names)] = row
    return list(rows.values())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class _Table:
    """A CSV file that a resumed run goes on with; rows after the step it resumes from are dropped, columns of others stay."""

    def __init__(self, path: str, columns: tuple[str, ...], resume_step: int):
        rows = [row for row in read_table(path) if int(row["step"]) <= resume_step]
        self._path, self._columns = path, tuple(dict.fromkeys([*columns, *(name for row in rows[:1] for name in row)]))
        with atomic_open(path, newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        with names_file(self._path), open(self._path, "a", newline="") as file:
            csv.DictWriter(file, self._columns).writerows(rows)


class RunLog:
    """The log of one run; in other processes than the first it stays silent."""

    def __init__(self, workdir: str | os.PathLike, total_steps: int, resume_step: int, active: bool = True):
        self._active, self._total, self._open = active, total_steps, contextlib.ExitStack()
        if not active:
            return
        import tensorflow as tf  # the data pipeline has it loaded already

        self._tf = tf
        self._metrics = _Table(os.path.join(workdir, METRICS), COLUMNS, resume_step)
        self._usage = _Table(os.path.join(workdir, "expert_usage.csv"), USAGE_COLUMNS, resume_step)
        self._summary = tf.summary.create_file_writer(os.path.join(workdir, "tensorboard"))
        self._open.callback(self._summary.close)
        self._bar = self._open.enter_context(progress_bar()) if sys.stderr.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task("compiling", total=total_steps, completed=resume_step)
        self._start, self._first = time.monotonic(), resume_step

    def steps(self, row: Mapping[str, Any]) -> None:
        """One line of metrics.csv, with the keys of `COLUMNS` that are there."""
        if not self._active:
            return
        self._metrics.append([row])
        step = int(row["step"])
        with self._summary.as_default(step=step):
            for name in COLUMNS[1:]:
                if name in row:
                    self._tf.summary.scalar(name, float(row[name]))
        if "loss" not in row:
            return
        text = f"loss {row['loss']:.3f}  {row['images_per_second']:.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            left = int((time.monotonic() - self._start) / max(step - self._first, 1) * (self._total - step))
            print(f"step {step}/{self._total}  {text}  {datetime.timedelta(seconds=left)} left", file=sys.stderr, flush=True)

    def usage(self, step: int, usage: Mapping[str, np.ndarray]) -> None:
        """The share of held-out tokens of each expert: block -> (E,)."""
        if not self._active:
            return
        each = [(block, expert, float(share)) for block, shares in usage.items() for expert, share in enumerate(shares)]
        self._usage.append(dict(zip(USAGE_COLUMNS, (step, block, expert, f"{share:.6f}"))) for block, expert, share in each)
        with self._summary.as_default(step=step):
            for block, expert, share in each:
                self._tf.summary.scalar(f"usage/{block}/{expert}", share)

    def images(self, step: int, images: np.ndarray) -> None:
        """(N, H, W, 3) RGB images in [0, 1]."""
        if self._active:
            with self._summary.as_default(step=step):
                self._tf.summary.image("reconstructions", images, max_outputs=len(images))

    def note(self, text: str) -> None:
        """A line for the person who watches."""
        if self._active:
            print(text, file=sys.stderr, flush=True) if self._bar is None else self._bar.console.print(text)

    def close(self) -> None:
        self._open.close()

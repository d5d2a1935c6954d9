"""The log of a run: progress on the terminal, metrics.csv, expert_usage.csv, TensorBoard."""

import contextlib
import csv
import datetime
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from geomoe.progress import progress_bar
from geomoe.training.losses import OBJECTIVES

TIMING_COLUMNS = ("images_per_second", "input_wait_share")  # the columns that two equal runs may differ in
COLUMNS = (
    *("step", "epoch", "lr", "loss", "loss_masked", "loss_unmasked", "loss_balance"),
    *(f"loss_{objective.name}" for objective in OBJECTIVES),
    *("grad_norm", "val_loss_masked", "val_loss_unmasked", "val_loss_balance"),
    *(f"val_loss_{objective.name}" for objective in OBJECTIVES if objective.held_out),
    "val_least_used_expert",  # share of the held-out tokens of the least used expert of any block, over an even share
    *TIMING_COLUMNS,
)


class RunLog:
    """The log of one run; in other processes than the first it stays silent."""

    def __init__(self, workdir: str | os.PathLike, total_steps: int, resume_step: int, active: bool = True):
        self._active, self._total, self._open = active, total_steps, contextlib.ExitStack()
        if not active:
            return
        import tensorflow as tf  # the data pipeline has it loaded already

        self._tf = tf
        self._metrics = self._table(os.path.join(workdir, "metrics.csv"), COLUMNS, resume_step)
        self._usage = self._table(os.path.join(workdir, "expert_usage.csv"), ("step", "block", "expert", "share"), resume_step)
        self._summary = tf.summary.create_file_writer(os.path.join(workdir, "tensorboard"))
        self._open.callback(self._summary.close)
        self._bar = self._open.enter_context(progress_bar()) if sys.stderr.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task("compiling", total=total_steps, completed=resume_step)
        self._start, self._first = time.monotonic(), resume_step

    def _table(self, path: str, columns: tuple[str, ...], resume_step: int) -> csv.DictWriter:
        """A CSV file that a resumed run goes on with; rows after the step it resumes from are dropped."""
        rows = []
        if os.path.exists(path):
            with open(path, newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= resume_step]
        writer = csv.DictWriter(self._open.enter_context(open(path, "w", newline="", buffering=1)), columns)  # noqa: SIM115
        writer.writeheader()
        writer.writerows(rows)
        return writer

    def steps(self, row: Mapping[str, Any]) -> None:
        """One line of metrics.csv, with the keys of `COLUMNS` that are there."""
        if not self._active:
            return
        self._metrics.writerow(row)
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
        with self._summary.as_default(step=step):
            for block, shares in usage.items():
                for expert, share in enumerate(shares):
                    self._usage.writerow({"step": step, "block": block, "expert": expert, "share": f"{share:.6f}"})
                    self._tf.summary.scalar(f"usage/{block}/{expert}", float(share))

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

"""Probes a frozen encoder: `python probe.py --config configs/probe_X.py --config.checkpoint=DIR`."""

from __future__ import annotations

import sys

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment: a file in configs/.", lock_config=True)
flags.mark_flags_as_required(["config"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    from geomoe.cli import setup

    setup.start()
    from geomoe.probing import run, tables

    rows, facts = run.run(_CONFIG.value)
    tables.print_table(rows, facts)
    print(tables.verdict(rows, facts["task"]))


if __name__ == "__main__":
    from geomoe.cli.setup import clear_errors

    sys.exit(clear_errors(app.run, main))

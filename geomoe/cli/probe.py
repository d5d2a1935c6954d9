"""Probes a frozen encoder: `python probe.py --config configs/probe_X.py --config.checkpoint=DIR`."""

from __future__ import annotations

import sys

from absl import flags
from ml_collections import config_flags

from geomoe.cli import setup

EXAMPLE = "python probe.py --config configs/probe_synthetic.py --config.checkpoint=runs/demo"


def run() -> int:
    """Run the command with the arguments of the process; its exit code."""
    config = config_flags.DEFINE_config_file("config", None, "Experiment: a file in configs/.", lock_config=True)
    start = setup.define_process_flags()
    flags.mark_flags_as_required(["config"])

    def main(_: list[str]) -> None:
        start()
        from geomoe.probing import run, tables

        rows, facts = run.run(config.value)
        if rows:  # in the first of several processes
            tables.print_table(rows, facts)
            print(tables.verdict(rows))

    return setup.run_config_script(main, EXAMPLE)


if __name__ == "__main__":
    sys.exit(run())

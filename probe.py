"""Probes a frozen encoder: `python probe.py --config configs/probe_X.py --config.checkpoint=DIR`."""

import sys

from geomoe.cli.probe import run

if __name__ == "__main__":
    sys.exit(run())

"""Pretrains the masked autoencoder: `python train.py --config configs/X.py --workdir DIR [--config.a.b=v]`."""

from __future__ import annotations

import math
import sys

from absl import flags
from ml_collections import config_flags

from geomoe.cli import setup

EXAMPLE = "python train.py --config configs/pretrain_synthetic.py --workdir runs/demo"


def run() -> int:
    """Run the command with the arguments of the process; its exit code."""
    config = config_flags.DEFINE_config_file("config", None, "Experiment: a file in configs/.", lock_config=True)
    workdir = flags.DEFINE_string("workdir", None, "Run directory; a run that is there goes on where it stopped.")
    start = setup.define_process_flags()
    flags.mark_flags_as_required(["config", "workdir"])

    def main(_: list[str]) -> int:
        if not workdir.value:
            raise ValueError("--workdir is empty; name a folder (is the variable set that it comes from?)")
        start()
        from geomoe.training import loop

        result = loop.train(config.value, str(workdir.value))
        if result.finished:
            loss = "" if math.isnan(result.val_loss) else f"validation loss {result.val_loss:.4f}, "
            print(f"done: step {result.step}, {loss}run directory {workdir.value}")
            return 0
        print(f"stopped at step {result.step}; the same command goes on from there")
        return setup.TRY_AGAIN

    return setup.run_config_script(main, EXAMPLE)


if __name__ == "__main__":
    sys.exit(run())

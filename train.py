"""Pretrains the masked autoencoder: `python train.py --config configs/X.py --workdir DIR [--config.a.b=v]`."""

from __future__ import annotations

import math
import sys

from absl import flags
from ml_collections import config_flags

from geomoe.cli import setup

EXAMPLE = "python train.py --config configs/pretrain_synthetic.py --workdir runs/demo"

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment: a file in configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; a run that is there goes on where it stopped.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, for runs of several processes.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Find the processes of a TPU pod, Slurm, Open MPI or Kubernetes.")
flags.mark_flags_as_required(["config", "workdir"])


def main(_: list[str]) -> int:
    setup.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, _DISTRIBUTED.value)
    from geomoe.training import loop

    result = loop.train(_CONFIG.value, _WORKDIR.value)
    if result.finished:
        loss = "" if math.isnan(result.val_loss) else f"validation loss {result.val_loss:.4f}, "
        print(f"done: step {result.step}, {loss}run directory {_WORKDIR.value}")
        return 0
    print(f"stopped at step {result.step}; the same command goes on from there")
    return setup.TRY_AGAIN


if __name__ == "__main__":
    sys.exit(setup.run_config_script(main, EXAMPLE))

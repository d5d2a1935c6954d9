"""Pretraining: config, state, step, devices, checkpoints, loop."""

from geomoe.training.checkpoints import load_params, read_run
from geomoe.training.config import default_config, recommended_config, validate
from geomoe.training.schedule import build_optimizer, warmup_cosine
from geomoe.training.state import TrainState, create_state, init_params
from geomoe.training.step import make_eval_step, make_train_step

__all__ = [
    "TrainState",
    "build_optimizer",
    "create_state",
    "default_config",
    "init_params",
    "load_params",
    "make_eval_step",
    "make_train_step",
    "read_run",
    "recommended_config",
    "validate",
    "warmup_cosine",
]

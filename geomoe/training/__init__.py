"""Pretraining: config, state, step, devices, checkpoints, loop."""

from geomoe.training.checkpoints import load_params, read_run
from geomoe.training.config import default_config, validate
from geomoe.training.optimizer import build_optimizer, warmup_cosine
from geomoe.training.presets import multi_objective_config
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
    "multi_objective_config",
    "validate",
    "warmup_cosine",
]

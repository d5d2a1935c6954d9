"""Pretraining: config, losses, state, step, devices, evaluation, checkpoints, loop."""

from geomoe.training.checkpoints import load_params, read_run
from geomoe.training.config import default_config, validate
from geomoe.training.evaluate import make_eval_step
from geomoe.training.losses.config import LossConfig
from geomoe.training.optimizer import build_optimizer, warmup_cosine
from geomoe.training.presets import multi_objective_config
from geomoe.training.state import TrainState, create_state, init_params
from geomoe.training.step import make_train_step

__all__ = [
    "LossConfig",
    "TrainState",
    "build_optimizer",
    "create_state",
    "default_config",
    "init_params",
    "load_params",
    "make_eval_step",
    "make_train_step",
    "multi_objective_config",
    "read_run",
    "validate",
    "warmup_cosine",
]

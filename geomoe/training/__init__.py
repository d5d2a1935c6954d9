"""Pretraining: config, losses, state, step, devices, evaluation, checkpoints, loop."""

from geomoe.training.checkpoints import load_params as load_params
from geomoe.training.config import default_config as default_config, validate as validate
from geomoe.training.evaluate import make_eval_step as make_eval_step
from geomoe.training.losses.config import LossConfig as LossConfig
from geomoe.training.optimizer import build_optimizer as build_optimizer, warmup_cosine as warmup_cosine
from geomoe.training.presets import multi_objective_config as multi_objective_config
from geomoe.training.run_file import read_run as read_run
from geomoe.training.state import TrainState as TrainState, create_state as create_state, init_params as init_params
from geomoe.training.step import make_train_step as make_train_step

"""The run directory: what a run is (`run.json`), and its states (`checkpoints/`, by Orbax)."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from geomoe.files import atomic_open
from geomoe.training.config import default_config, differences, modernised
from geomoe.training.parallel import replicate
from geomoe.training.state import TrainState

RUN_FILE = "run.json"
FOLDER = "checkpoints"


def read_run(workdir: str | os.PathLike) -> dict[str, Any]:
    """Read a run's facts: config (with today's keys), model, statistics, dataset and geomoe_version.

    Raises:
        FileNotFoundError: the folder is no run directory.
    """
    path = os.path.join(workdir, RUN_FILE)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{workdir} is no run directory of train.py: it has no {RUN_FILE}")
    with open(path) as file:
        run = json.load(file)
    return {**run, "config": modernised(run["config"])}


def known_statistics(workdir: str | os.PathLike) -> dict[str, Any] | None:
    """The statistics of the run in a folder, or None if there is no run yet."""
    return read_run(workdir)["statistics"] if os.path.exists(os.path.join(workdir, RUN_FILE)) else None


def open_run(workdir: str | os.PathLike, facts: dict[str, Any]) -> None:
    """Write a new run's facts, or check that the run that is there has the same configuration.

    Raises:
        ValueError: the folder holds a run with another configuration, or something else; the message names what differs.
    """
    path = os.path.join(workdir, RUN_FILE)
    if os.path.exists(path):
        if changed := differences(read_run(workdir)["config"], facts["config"]):
            raise ValueError(
                f"{workdir} holds a run with another config; take another --workdir, or the config of that run. "
                f"Differences: {'; '.join(changed)}"
            )
        return
    if os.path.isdir(os.path.join(workdir, FOLDER)):
        raise ValueError(f"{workdir} has checkpoints but no {RUN_FILE}: it is no run directory of this version")
    if jax.process_index() == 0:
        os.makedirs(workdir, exist_ok=True)
        with atomic_open(path) as file:
            json.dump(facts, file, indent=1)


def write_run(workdir: str | os.PathLike[str], facts: Mapping[str, Any], params: Any) -> None:
    """Make a run directory of parameters that come from elsewhere, for everything that takes one; step 0.

    Args:
        facts: model, statistics, dataset and geomoe_version; the config is the default with what `facts["config"]` changes, as
            dotted keys.
        params: {"encoder", "decoder"}.

    Raises:
        ValueError: the folder holds a run already.
    """
    if os.path.exists(os.path.join(workdir, RUN_FILE)):
        raise ValueError(f"{workdir} holds a run already")
    config = default_config()
    config.update_from_flattened_dict(facts["config"])
    open_run(workdir, {**facts, "config": config.to_dict(), "total_steps": 0})
    with _manager(workdir) as manager:
        args = ocp.args.Composite(params=ocp.args.StandardSave(jax.tree.map(np.asarray, params)))
        manager.save(0, args=args, metrics={"val_loss": float("inf")})


def _val_loss(metrics: Mapping[str, float]) -> float:
    return metrics["val_loss"]


def _manager(workdir: str | os.PathLike, **options: Any) -> ocp.CheckpointManager:
    options |= dict(best_fn=_val_loss, best_mode="min")  # without which it keeps no metrics
    folder = os.path.abspath(os.path.join(workdir, FOLDER))
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(**options))


def _parts(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds, by the names of its folders."""
    parts = {"params": state.params, "optimizer": state.opt_state}
    return parts if state.teacher is None else parts | {"teacher": state.teacher}


class Checkpoints:
    """Asynchronous saving of states; keeps the last `keep_last` and the best by validation loss."""

    def __init__(self, workdir: str | os.PathLike, keep_last: int = 2):
        policies = checkpoint_managers.preservation_policy
        best = policies.BestN(get_metric_fn=_val_loss, reverse=True, n=1)
        keep = policies.AnyPreservationPolicy([policies.LatestN(max(keep_last, 1)), best])
        self._manager = _manager(workdir, preservation_policy=keep, enable_async_checkpointing=True)

    def save(self, state: TrainState, step: int, val_loss: float) -> None:
        """Start saving; returns when the state may be changed again."""
        args = {name: ocp.args.StandardSave(tree) for name, tree in _parts(state).items()}
        self._manager.save(step, args=ocp.args.Composite(**args), metrics={"val_loss": val_loss}, force=True)

    def restore_latest(self, like: TrainState) -> TrainState | None:
        """The newest state, placed as `like` is, or None if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = {name: ocp.args.StandardRestore(tree) for name, tree in _parts(abstract).items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return TrainState(replicate(np.int32(step)), restored["params"], restored["optimizer"], restored.get("teacher"))

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def preempted(self, step: int) -> bool:
        """Whether a run of several processes has to stop, as all of them agree."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def load_params(workdir: str | os.PathLike, which: str | int = "last") -> tuple[int, Any]:
    """Load the parameters of a run as numpy arrays, and their step.

    Args:
        workdir: the run directory.
        which: "last", "best" (by validation loss), or a step, as a number or its digits.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    folder = epath.Path(os.path.abspath(os.path.join(workdir, FOLDER)))
    steps = sorted(int(path.name) for path in (folder.iterdir() if folder.is_dir() else ()) if path.name.isdigit())
    if not steps:
        raise FileNotFoundError(f"{workdir} has no checkpoint yet")
    if which == "last":
        step = steps[-1]
    elif which == "best":
        step = min(steps, key=lambda s: json.loads((folder / str(s) / "metrics" / "metrics").read_text())["val_loss"])
    elif str(which).isdigit() and int(which) in steps:
        step = int(which)
    else:
        raise FileNotFoundError(f"{workdir} has no checkpoint {which!r}; it has last, best, {', '.join(map(str, steps))}")
    handler = ocp.PyTreeCheckpointHandler()
    path = folder / str(step) / "params"
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
    return step, handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=restore_args))

"""The states of a run (`checkpoints/`, by Orbax): saved whole, verified before they are used."""

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from geomoe.training.config import default_config
from geomoe.training.integrity import (
    DamagedCheckpoint,
    DamagedCheckpointWarning,
    SummedPath,
    damage,
    has_sums,
    in_short,
    step_damage,
)
from geomoe.training.parallel import agreed, replicate
from geomoe.training.run_file import CHECKPOINTS, is_run, open_run
from geomoe.training.state import TrainState

DAMAGED = "damaged_checkpoints"  # where a run that goes on puts those that it cannot use


def write_run(workdir: str | os.PathLike[str], facts: Mapping[str, Any], params: Any) -> None:
    """Make a run directory of parameters that come from elsewhere, for everything that takes one; step 0.

    Args:
        facts: model, statistics, dataset and geomoe_version; the config is the default with what `facts["config"]` changes, as
            dotted keys.
        params: {"encoder", "decoder"}.

    Raises:
        ValueError: the folder holds a run already.
    """
    if is_run(workdir):
        raise ValueError(f"{workdir} holds a run already")
    config = default_config()
    config.update_from_flattened_dict(facts["config"])
    open_run(workdir, {**facts, "config": config.to_dict(), "total_steps": 0})
    with _writing(workdir), _manager(workdir) as manager:
        args = ocp.args.Composite(params=ocp.args.StandardSave(jax.tree.map(np.asarray, params)))
        manager.save(0, args=args, metrics={"val_loss": float("inf")})


def _val_loss(metrics: Mapping[str, float]) -> float:
    return metrics["val_loss"]


def _folder(workdir: str | os.PathLike[str], *names: str | int) -> str:
    return os.path.join(os.path.abspath(workdir), CHECKPOINTS, *map(str, names))


def _steps(workdir: str | os.PathLike[str]) -> list[int]:
    """The steps that a folder has, damaged ones too, in their order."""
    folder = _folder(workdir)
    return sorted(int(name) for name in (os.listdir(folder) if os.path.isdir(folder) else ()) if name.isdigit())


def _manager(workdir: str | os.PathLike[str], **options: Any) -> ocp.CheckpointManager:
    options |= dict(best_fn=_val_loss, best_mode="min")  # without which it keeps no metrics
    options |= dict(temporary_path_class=SummedPath)
    return ocp.CheckpointManager(_folder(workdir), options=ocp.CheckpointManagerOptions(**options))


@contextlib.contextmanager
def _writing(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Says of what goes wrong in Orbax's threads where it was to write."""
    try:
        yield
    except Exception as error:  # OSError, or what TensorStore makes of a full disk: ValueError, RuntimeError
        raise OSError(
            f"{_folder(workdir)} cannot be written ({in_short(error)}); older checkpoints stay as they are"
        ) from error


def _parts(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds, by the names of its folders."""
    parts = {"params": state.params, "optimizer": state.opt_state}
    return parts if state.teacher is None else parts | {"teacher": state.teacher}


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run goes on from."""

    state: TrainState
    val_loss: float  # NaN where there was none yet
    notes: list[str]  # what was damaged and where it is now, a sentence each


def restore_latest(workdir: str | os.PathLike[str], like: TrainState) -> Restored | None:
    """Restore the newest whole state of a run, placed as `like` is; None if the run has no checkpoint yet.

    Damaged checkpoints are moved to `damaged_checkpoints/` in the run directory.

    Raises:
        DamagedCheckpoint: there are checkpoints, but no whole one; nothing is moved.
    """
    parts = _parts(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
    damaged: dict[int, str] = {}
    if jax.process_index() == 0:
        found = {step: step_damage(_folder(workdir, step), [*parts, "metrics"]) for step in _steps(workdir)}
        damaged = {step: reason for step, reason in found.items() if reason}
    whole = [step for step in _steps(workdir) if step not in damaged]
    while (step := agreed(whole.pop() if whole else -1)) >= 0:
        folder = _folder(workdir, step)
        try:
            trees = {name: _restore(os.path.join(folder, name), tree) for name, tree in parts.items()}
        except Exception as error:
            if has_sums(folder) or jax.process_count() > 1:
                raise
            damaged[step] = in_short(error)
            continue
        state = TrainState(replicate(np.int32(step)), trees["params"], trees["optimizer"], trees.get("teacher"))
        val_loss = _read_val_loss(folder)
        return Restored(state, val_loss if np.isfinite(val_loss) else float("nan"), _set_aside(workdir, damaged))
    if damaged:
        raise DamagedCheckpoint(_none_whole(workdir, damaged))
    return None


def _restore(path: str, like: Any) -> Any:
    return ocp.StandardCheckpointHandler().restore(epath.Path(path), args=ocp.args.StandardRestore(like))


def _set_aside(workdir: str | os.PathLike[str], damaged: Mapping[int, str]) -> list[str]:
    notes = []
    for step, reason in sorted(damaged.items()):
        target = os.path.join(os.path.abspath(workdir), DAMAGED, str(step))
        while os.path.exists(target):
            target += "_"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(_folder(workdir, step), target)
        notes.append(f"the checkpoint of step {step} is damaged ({reason}): moved to {target}")
    return notes


class Checkpoints:
    """Asynchronous saving of states; keeps the last `keep_last` and the best by validation loss."""

    def __init__(self, workdir: str | os.PathLike[str], keep_last: int = 2):
        self._workdir = workdir
        policies = checkpoint_managers.preservation_policy
        best = policies.BestN(get_metric_fn=_val_loss, reverse=True, n=1)
        keep = policies.AnyPreservationPolicy([policies.LatestN(max(keep_last, 1)), best])
        with _writing(workdir):
            self._manager = _manager(workdir, preservation_policy=keep, enable_async_checkpointing=True)

    def save(self, state: TrainState, step: int, val_loss: float) -> None:
        """Start saving; returns when the state may be changed again.

        Raises:
            OSError: this or the last checkpoint cannot be written.
        """
        args = {name: ocp.args.StandardSave(tree) for name, tree in _parts(state).items()}
        with _writing(self._workdir):
            self._manager.save(step, args=ocp.args.Composite(**args), metrics={"val_loss": val_loss}, force=True)

    def steps(self) -> list[int]:
        """The steps that are kept or being written, in their order."""
        return sorted(self._manager.all_steps())

    def preempted(self, step: int) -> bool:
        """Whether a run of several processes has to stop, as all of them agree."""
        return jax.process_count() > 1 and self._manager.reached_preemption(step)

    def close(self) -> None:
        """Wait until everything is on disk."""
        with _writing(self._workdir):
            self._manager.wait_until_finished()
            self._manager.close()


def _none_whole(workdir: str | os.PathLike[str], damaged: Mapping[int, str]) -> str:
    each = "; ".join(f"step {step}: {reason}" for step, reason in sorted(damaged.items()))
    return f"{_folder(workdir)} has no whole checkpoint ({each}); put a copy of one there, or begin anew in another folder"


def _read_val_loss(folder: str) -> float:
    """The validation loss of a checkpoint; NaN where it has none."""
    try:
        with open(os.path.join(folder, "metrics", "metrics"), encoding="utf-8") as file:
            return float(json.load(file)["val_loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return float("nan")


def load_params(workdir: str | os.PathLike[str], which: str | int = "last") -> tuple[int, Any]:
    """Load the parameters of a run as numpy arrays, and their step.

    Args:
        workdir: the run directory.
        which: "last", "best" (by validation loss), or a step, as a number or its digits.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        DamagedCheckpoint: the step that is asked for, or every one, is damaged; a ValueError.

    Warns:
        DamagedCheckpointWarning: a damaged one was left out.
    """
    steps = _steps(workdir)
    if not steps:
        raise FileNotFoundError(f"{workdir} has no checkpoint yet")
    reasons: dict[int, str] = {}
    if which == "last":
        wanted = steps[::-1]
    elif which == "best":
        losses = {step: _read_val_loss(_folder(workdir, step)) for step in steps}
        for step, loss in losses.items():
            reason = damage(_folder(workdir, step), ["metrics"]) or ("it has no validation loss" if np.isnan(loss) else None)
            reasons |= {step: reason} if reason else {}
        wanted = sorted(losses.keys() - reasons.keys(), key=lambda step: (losses[step], step))
    elif str(which).isdigit() and int(which) in steps:
        wanted = [int(which)]
    else:
        raise FileNotFoundError(f"{workdir} has no checkpoint {which!r}; it has last, best, {', '.join(map(str, steps))}")
    for step in wanted:
        params, reason = _load(_folder(workdir, step))
        if reason is None:
            for other, why in sorted(reasons.items()):
                message = f"step {other} of {workdir} is left out: {why}; step {step} is taken"
                warnings.warn(message, DamagedCheckpointWarning, stacklevel=4)  # the caller of geomoe.load
            return step, params
        reasons[step] = reason
    raise DamagedCheckpoint(_none_whole(workdir, reasons))


def _load(folder: str) -> tuple[Any, str | None]:
    """The parameters of a checkpoint, or what is wrong with it."""
    if reason := damage(folder, ["params"]):
        return None, reason
    handler = ocp.PyTreeCheckpointHandler()
    path = epath.Path(folder) / "params"
    try:
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
        return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=restore_args)), None
    except Exception as error:
        if has_sums(folder):
            raise
        return None, in_short(error)

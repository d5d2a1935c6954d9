"""What a run is: `run.json` in its directory, and the lock that one process at a time holds on it."""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from geomoe.files import atomic_open
from geomoe.landsat import Statistics
from geomoe.models import ModelConfig
from geomoe.training.config import differences, modernised
from geomoe.training.run_log import METRICS, read_table

RUN_FILE = "run.json"
LOCK_FILE = "run.lock"
CHECKPOINTS = "checkpoints"  # the folder of the states
_SUM = "sha256"  # of the other facts; runs of older versions lack it


def _sum(facts: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in facts.items() if key != _SUM}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_run(workdir: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a run."""
    return os.path.exists(os.path.join(workdir, RUN_FILE))


def read_run(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a run's facts: config (with today's keys), model, statistics, dataset and geomoe_version.

    Raises:
        FileNotFoundError: the folder is no run directory.
        ValueError: its run.json is damaged.
    """
    path = os.path.join(workdir, RUN_FILE)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{workdir} is no run directory of train.py: it has no {RUN_FILE}")
    try:
        with open(path, encoding="utf-8") as file:
            run = json.load(file)
        if not isinstance(run, dict):
            raise ValueError("it holds no facts of a run")
        if missing := [key for key in ("config", "model", "statistics") if not isinstance(run.get(key), dict)]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if run.get(_SUM, _sum(run)) != _sum(run):
            raise ValueError("it is not what was written (SHA-256)")
        ModelConfig.from_dict(run["model"])
        Statistics.of(run["statistics"])
        return {**run, "config": modernised(run["config"])}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}; put a copy of it there, or begin anew in another folder") from error


def _begun(workdir: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a run that has made a step; one that was refused before has left nothing to keep but its facts."""
    if not is_run(workdir):
        return False
    checkpoints, metrics = (os.path.join(workdir, name) for name in (CHECKPOINTS, METRICS))
    return bool(os.path.isdir(checkpoints) and os.listdir(checkpoints)) or bool(read_table(metrics))


def known_statistics(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The statistics of the run in a folder, or None if none has begun there."""
    return read_run(workdir)["statistics"] if _begun(workdir) else None


def open_run(workdir: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
    """Write a new run's facts, or check that the run that is there has the same configuration and data.

    One that was refused before its first step has no checkpoint and no metrics: it begins anew, with whatever configuration.

    Raises:
        ValueError: the folder holds a run with another configuration, of datasets that were prepared anew since, or something
            else; the message names what differs. Or its path has a character below which Orbax loses what it writes.
    """
    if odd := [character for character in "[\\" if character in os.path.abspath(workdir)]:
        raise ValueError(f"{workdir}: checkpoints cannot be written where the path has a {odd[0]}; take another --workdir")
    if _begun(workdir) or is_run(workdir) and jax.process_index() > 0:
        run = read_run(workdir)
        if changed := differences(run["config"], facts["config"]):
            raise ValueError(
                f"{workdir} holds a run with another config; take another --workdir, or the config of that run. "
                f"Differences: {'; '.join(changed)}"
            )
        before = run.get("records", {})  # runs of older versions lack them
        if other := [name for name, records in facts.get("records", {}).items() if before.get(name, records) != records]:
            what = f"{', '.join(other)} holds other records than when the run in {workdir} began"
            raise ValueError(f"{what}; prepare it from the same source again, or take another --workdir")
        return
    if os.path.isdir(os.path.join(workdir, CHECKPOINTS)) and not is_run(workdir):
        raise ValueError(f"{workdir} has checkpoints but no {RUN_FILE}: it is no run directory of this version")
    if jax.process_index() == 0:
        facts = json.loads(json.dumps(facts))
        with atomic_open(os.path.join(workdir, RUN_FILE)) as file:
            json.dump({**facts, _SUM: _sum(facts)}, file, indent=1)


@contextlib.contextmanager
def locked(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a run directory for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        ValueError: another process holds it; the message names host and process.
    """
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, LOCK_FILE)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(
                f"{workdir} is in use by {holder}, which holds {path}: wait for it, stop it, or take another --workdir"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on host {socket.gethostname()}\n")
        file.flush()
        yield

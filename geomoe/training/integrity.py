"""Whether a checkpoint is what was written: a SHA-256 of each of its files, in the format of `sha256sum`.

The sums are written before a checkpoint gets its name, so that one without them is either of an older version or damaged.
`sha256sum -c SHA256SUMS` in the folder of a step checks it as well.
"""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Sequence

import orbax.checkpoint as ocp
import tensorstore

SUMS = "SHA256SUMS"
_MARK = "commit_success.txt"  # which Orbax writes last
_STEP_METADATA = "_CHECKPOINT_METADATA"  # changed by Orbax after the sums are written, as is the mark of the whole step


class DamagedCheckpoint(ValueError):
    """A checkpoint is incomplete or not what was written."""


class DamagedCheckpointWarning(UserWarning):
    """A damaged checkpoint was left out, and an older one taken."""


class SummedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """A folder that Orbax writes to; that of a whole step gets its sums, then its name."""

    async def finalize(self) -> None:
        if self.get_final().name.isdigit():
            await asyncio.to_thread(_write_sums, os.fspath(self.get()))
        await super().finalize()


def _files(folder: str) -> list[str]:
    """Paths of the files that sums stand for, from `folder` on."""
    paths = (os.path.relpath(os.path.join(root, name), folder) for root, _, names in os.walk(folder) for name in names)
    return sorted(path for path in paths if path not in (SUMS, _MARK, _STEP_METADATA))


def _sum(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_sums(folder: str) -> None:
    files = _files(folder)
    for part in sorted({path.split(os.sep)[0] for path in files if os.sep + "ocdbt.process_" in path}):
        if f"{part}{os.sep}manifest.ocdbt" not in files:
            raise OSError(f"{part}/manifest.ocdbt was not written")
    with open(os.path.join(folder, SUMS), "w") as file:
        file.writelines(f"{_sum(os.path.join(folder, path))}  {path}\n" for path in files)


def damage(folder: str | os.PathLike[str], parts: Sequence[str]) -> str | None:
    """What is wrong with the parts of a checkpoint, or None.

    Args:
        folder: of a step.
        parts: names of folders in it, such as "params".

    Returns:
        A clause that names the first file that is missing or changed. Of checkpoints without sums, which older versions
        wrote, only whether the files are there that each has.
    """
    folder = os.fspath(folder)
    for part in parts:
        if not os.path.isdir(os.path.join(folder, part)):
            return f"{part}/ is missing"
    present = [path for path in _files(folder) if path.split(os.sep)[0] in parts]
    if not has_sums(folder):
        for part in parts:
            expected = (_MARK, "metrics") if part == "metrics" else (_MARK, "_METADATA", "manifest.ocdbt")
            for name in expected:
                if not os.path.isfile(os.path.join(folder, part, name)):
                    return f"{part}/{name} is missing"
            if part != "metrics" and not any(path.startswith(f"{part}/d/") for path in present):
                return f"{part}/d/ is missing"
            if part != "metrics" and (reason := _unreadable(os.path.join(folder, part))):
                return f"{part}/ cannot be read ({reason})"
        return None
    with open(os.path.join(folder, SUMS), "rb") as file:
        lines = [re.fullmatch(rb"([0-9a-f]{64})  (.+)\n", line) for line in file]
    if None in lines or not lines:
        return f"{SUMS} is damaged"
    sums = {os.fsdecode(line[2]): line[1].decode() for line in lines if line is not None}
    summed = {path for path in sums if path.split(os.sep)[0] in parts}
    for path in sorted(summed - set(present)):
        return f"{path} is missing"
    for path in present:
        if path not in sums:
            return f"{path} does not stand in {SUMS}"
        if _sum(os.path.join(folder, path)) != sums[path]:
            return f"{path} is not what was written (SHA-256)"
    return None


def _unreadable(folder: str) -> str | None:
    """What TensorStore says of a folder that it cannot read, or None.

    It reads one value after the other. Orbax reads all at once, and of those that fail after the first, whose error ends the
    event loop, TensorStore prints a traceback each: "Event loop is closed".
    """
    try:
        spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
        store = tensorstore.KvStore.open(spec).result()
        for key in store.list().result():
            store.read(key).result()
    except Exception as error:  # ValueError, or what else TensorStore makes of a file
        return in_short(error)
    return None


def in_short(error: BaseException) -> str:
    """What Orbax and TensorStore say, without the specification of what was read."""
    text = re.split(r" ?\[tensorstore_spec|\n", str(error).strip())[0]
    return f"{type(error).__name__}: {text}"


def has_sums(folder: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint can be verified."""
    return os.path.isfile(os.path.join(folder, SUMS))


def step_damage(folder: str | os.PathLike[str], parts: Sequence[str]) -> str | None:
    """What is wrong with a whole checkpoint, out of which a run goes on, or None."""
    try:
        with open(os.path.join(folder, _STEP_METADATA), encoding="utf-8") as file:
            json.load(file)
    except FileNotFoundError:
        return f"{_STEP_METADATA} is missing"
    except ValueError:
        return f"{_STEP_METADATA} is damaged"
    if not os.path.isfile(os.path.join(folder, _MARK)):
        return f"{_MARK} is missing"
    return damage(folder, parts)

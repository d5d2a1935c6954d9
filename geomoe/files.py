"""Files that appear whole or not at all: the one place that writes beside a file and renames.

A reader, or a run that was killed, never sees half a file: what is being written has the suffix `.partial`.
"""

import contextlib
import errno
import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from typing import IO, Any

PARTIAL = ".partial"
_ABANDONED = 2 * 24 * 3600  # seconds without a write, which no writer takes


@contextlib.contextmanager
def names_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the path into errors of writing to an open file, which name none: a full disk, a quota, a limit of size."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a path to write to, and rename what stands there to `path` at the end of the `with` block.

    What is written may be a file or a folder. If the block raises, it is removed and `path` stays as it was. Of several
    processes that write one file at once each writes its own, and the last to end stays. What a killed one left is removed by
    a later one when nothing was written to it for two days.

    Args:
        path: the file or folder to make or replace; the folder that it is in is made where it is absent.

    Raises:
        OSError: the file cannot be written; it names the file.
    """
    target = os.fspath(path)
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    for left in glob.glob(f"{glob.escape(target)}.{8 * '[0-9a-f]'}{PARTIAL}"):
        with contextlib.suppress(OSError):  # gone by now
            newest = max([os.stat(path).st_mtime for path in (left, *glob.iglob(f"{glob.escape(left)}/**", recursive=True))])
            if time.time() - newest > _ABANDONED:
                _remove(left)
    partial = f"{target}.{uuid.uuid4().hex[:8]}{PARTIAL}"
    try:
        with names_file(target):
            yield partial
        if os.path.isdir(partial):  # cannot take the place of a folder that holds something
            _remove(target)
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(partial)
        raise


def _remove(path: str) -> None:
    """Delete a file or a folder where there is one."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str], mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """`open` for writing, whole or not at all.

    Args:
        path: the file to make or replace.
        mode: "w" or "wb".
        **options: as for `open`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_open(f"{folder}/a.txt") as file:
    ...         _ = file.write("whole")
    ...     os.listdir(folder)
    ['a.txt']
    """
    with atomic_path(path) as partial, open(partial, mode, **options) as file:
        yield file

"""The GeoTIFFs of a folder, and the names that tables give them: what every command that takes a folder lists it by."""

import collections
import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

ENDINGS = (".tif", ".tiff")  # in upper or lower case


class File(NamedTuple):
    """A GeoTIFF below a folder."""

    id: str  # path below the folder, parts joined by "/", without the ending; accents composed, bytes that are no text as \xff
    path: str  # to open it


def find_geotiffs(folder: str | os.PathLike[str]) -> list[File]:
    """List the GeoTIFFs of a folder and its subfolders, sorted by id.

    Links to folders are followed; a folder that is reached twice is listed once, where it stands rather than where a link is.
    The ending stays in the ids of files that differ in nothing else.

    Raises:
        OSError: the folder, or one below it, cannot be read.
    """
    root = os.fspath(folder)
    paths, real, links, seen = list[str](), [root], list[str](), set[tuple[int, int]]()
    while real or links:
        current = real.pop() if real else links.pop(0)
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(current) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    real.append(entry.path)
                elif entry.is_symlink() and os.path.isdir(entry.path):
                    links.append(entry.path)
                elif entry.name.lower().endswith(ENDINGS) and not entry.name.startswith("._"):  # macOS leaves those
                    paths.append(entry.path)
    written = [os.fsencode(os.path.relpath(path, root)).decode("utf-8", "backslashreplace") for path in paths]
    ids = [unicodedata.normalize("NFC", os.path.splitext(text)[0]) for text in written]
    for names in ([unicodedata.normalize("NFC", text) for text in written], written):
        count = collections.Counter(ids)
        ids = [longer if count[short] > 1 else short for short, longer in zip(ids, names)]
    return sorted(File(*pair) for pair in zip(ids, paths))


def fingerprint(files: Sequence[File]) -> str:
    """SHA-256 in hex of the names and states of files (see `masked_state`): distinguishes two states of a folder."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(repr((file.id, *masked_state(file.path))).encode())
    return digest.hexdigest()


def file_state(path: str) -> tuple[int, int]:
    """Size and time of modification of a file; zeros where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def masked_state(path: str) -> tuple[Any, ...]:
    """The state of a raster, and after it that of a mask (`.msk`) where one lies beside it."""
    mask = f"{path}.msk"
    return (*file_state(path), file_state(mask)) if os.path.exists(mask) else file_state(path)


def plain_name(text: str) -> str:
    r"""The name of a file below a folder, as a table has it, in the form of a `File`'s id.

    Raises:
        ValueError: the name leads out of the folder.

    >>> plain_name(r".\Forest\Forest_1.TIF")
    'Forest/Forest_1'
    """
    name = unicodedata.normalize("NFC", text.strip()).replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if re.match("/|[A-Za-z]:/", name) or ".." in parts:
        raise ValueError(f"{text!r} leads out of the folder of the patches; write it as a path below it")
    stem, ending = os.path.splitext("/".join(parts))
    return stem if ending.lower() in ENDINGS else stem + ending


class Names:
    """Finds the files of a folder by the names that tables give them: paths below it, or the last parts of these."""

    def __init__(self, folder: str | os.PathLike[str], files: Sequence[File]) -> None:
        self._roots = [f"{path(folder)}/" for path in (os.path.abspath, os.path.realpath)]
        self._by_id = {file.id: file for file in files}
        self._by_end: dict[str, list[File]] = {}
        for file in files:
            parts = file.id.split("/")
            for i in range(1, len(parts)):
                self._by_end.setdefault("/".join(parts[i:]), []).append(file)

    def find(self, text: str) -> File | None:
        """Find the file of a name; None where there is none.

        Raises:
            ValueError: the name leads out of the folder, or several files have it.
        """
        if file := self._by_id.get(unicodedata.normalize("NFC", text.strip())):
            return file  # with an ending, or a backslash, that belongs to it
        for root in self._roots:
            text = text.removeprefix(root)
        name = plain_name(text)
        if name in self._by_id:
            return self._by_id[name]
        several = self._by_end.get(name, [])
        if len(several) > 1:
            paths = ", ".join(file.id for file in several[:3])
            raise ValueError(f"{text!r} names {len(several)} files ({paths} ...); write the path below the folder")
        return several[0] if several else None

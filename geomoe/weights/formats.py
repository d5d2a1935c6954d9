"""Which format a file of weights has."""

import os
import zipfile

import safetensors

SAFETENSORS, PTH = ".safetensors", ".pth"


def format_of(path: str | os.PathLike[str]) -> str | None:
    """Tell a whole file's format by its content: `SAFETENSORS`, `PTH` (a zip archive, as PyTorch writes), or None.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with safetensors.safe_open(path, framework="numpy"):
            return SAFETENSORS
    except safetensors.SafetensorError:
        return PTH if zipfile.is_zipfile(path) else None

"""Reading and writing PyTorch's zip checkpoint format without PyTorch.

A `.pth` file (PyTorch 1.6 and later) is a zip archive: `<root>/data.pkl`, a pickle in which every tensor is a call of
`torch._utils._rebuild_tensor_v2` on a storage named by number, and `<root>/data/<number>`, the raw bytes of that storage.
The reader executes nothing from the file: like `torch.load(weights_only=True)`, it knows a short list of names and refuses
every other one. What it allocates is bounded beforehand: by the file's size, and by the number of values that tensors declare.
"""

import collections
import io
import itertools
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from geomoe.files import atomic_path

_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class TorchFormatError(ValueError):
    """The file is not a PyTorch zip checkpoint, or holds something other than plain tensors and containers."""


_MAX_PICKLE = 4_000_000  # bytes of data.pkl; that of size S has 0.2 million
_MAX_INFLATION = 4  # of an archive that was packed again; PyTorch itself stores without compression
_MAX_ERROR = 300  # characters; a value from the file can be as long as it likes


class _TensorUnpickler(pickle._Unpickler):
    """An unpickler that can build tensors, numbers, strings and containers, and nothing else.

    It is Python's own in Python: the one in C allocates a memo as long as the file says. It takes `max_values` values of
    tensors at most, those that share a storage counted each.
    """

    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, root: str, max_values: int):
        super().__init__(file, encoding="utf-8")
        self._archive, self._root, self._left, self._max = archive, root, max_values, max_values
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return self._rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise TorchFormatError(
            f"the checkpoint refers to {module}.{name}, which is not a plain tensor or container; it is refused because "
            "loading it could run code. Save it again as {'model_state': model.state_dict()}."
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], np.dtype)):
            raise TorchFormatError("unknown kind of storage in the checkpoint")
        _, dtype, key, _location, _numel = pid
        if not isinstance(key, str):
            raise TorchFormatError("a storage of the checkpoint has no name")
        if key not in self._storages:
            try:
                raw = self._archive.read(f"{self._root}/data/{key}")
            except KeyError:
                raise TorchFormatError(f"the checkpoint has no storage data/{key}: the file is truncated") from None
            self._storages[key] = np.frombuffer(raw, dtype.newbyteorder("<"))
        return self._storages[key]

    def _rebuild_tensor(self, storage: np.ndarray, offset: int, shape: Any, strides: Any, *_: Any) -> np.ndarray:
        geometry = f"a tensor has the geometry offset {offset}, shape {shape}, strides {strides}"
        integers = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= 64
        if not integers or not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides)):
            raise TorchFormatError(f"{geometry}, which is none")
        count = math.prod(shape)
        self._left -= count
        if self._left < 0:
            more = "max_params takes more, where you trust the file"
            raise TorchFormatError(f"{geometry}; that makes more than {self._max:,} values in all. {more}")
        if not count:
            return np.zeros(shape, storage.dtype)
        if offset + sum((n - 1) * s for n, s in zip(shape, strides)) >= storage.size:
            raise TorchFormatError(f"{geometry}, which reaches past its storage of {storage.size} values")
        item = storage.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(storage[offset:], shape, [s * item for s in strides], writeable=False)
        return np.array(view)


def read(path: str | os.PathLike, max_values: int = 100_000_000) -> Any:
    """Read a `.pth` file as `torch.load(path, weights_only=True)` would, with numpy arrays for tensors.

    Args:
        max_values: of all tensors together; a file that declares more is refused before they are allocated.

    Raises:
        FileNotFoundError: there is no such file.
        TorchFormatError: the file is not in the zip format, is damaged, refers to anything but tensors, numbers, strings and
            containers, or declares too much.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        raise TorchFormatError(f"{path} is not a PyTorch zip checkpoint (PyTorch 1.6 or later writes these)")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, os.path.getsize(path), max_values)
    except TorchFormatError as error:
        raise TorchFormatError(f"{path}: {_short(error)}") from None
    except Exception as error:  # an archive or a pickle can be broken in every way
        raise TorchFormatError(f"{path} is damaged: {type(error).__name__}: {_short(error)}") from None


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= _MAX_ERROR else f"{text[:_MAX_ERROR]} ..."


def _read_archive(archive: zipfile.ZipFile, size: int, max_values: int) -> Any:
    entries = {info.filename: info.file_size for info in archive.infolist()}
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > _MAX_INFLATION * size:
        raise TorchFormatError(f"its {size:,} bytes unpack to {unpacked:,}; PyTorch stores tensors without compression")
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise TorchFormatError(f"the zip file holds {len(pickles)} data.pkl where a checkpoint has one")
    if entries[pickles[0]] > _MAX_PICKLE:
        raise TorchFormatError(f"its data.pkl has {entries[pickles[0]]:,} bytes; the weights of a model need far fewer")
    root = pickles[0][: -len("/data.pkl")]
    values = sum(length for name, length in entries.items() if name.startswith(f"{root}/data/"))
    if values > 8 * max_values:  # bytes, of the widest type
        raise TorchFormatError(f"its storages hold {values:,} bytes, more than {max_values:,} values; max_params takes more")
    order = f"{root}/byteorder"
    if order in entries and archive.read(order) != b"little":
        raise TorchFormatError("it was written on a big-endian machine; save it again on a little-endian one")
    return _TensorUnpickler(io.BytesIO(archive.read(pickles[0])), archive, root, max_values).load()


class _TensorPickler:
    """Writes the pickle opcodes (protocol 2) for a tree of dicts, numbers, strings and float32 arrays.

    The standard pickler cannot be used: it insists on importing `torch` to write a reference to `torch.FloatStorage`.
    """

    def __init__(self) -> None:
        self.out = io.BytesIO()
        self.storages: list[np.ndarray] = []
        self._keys: dict[int, int] = {}

    def dump(self, tree: Any) -> bytes:
        self.out.write(pickle.PROTO + b"\x02")
        self._save(tree)
        self.out.write(pickle.STOP)
        return self.out.getvalue()

    def _save(self, value: Any) -> None:
        write = self.out.write
        if value is None:
            write(pickle.NONE)
        elif isinstance(value, bool):
            write(pickle.NEWTRUE if value else pickle.NEWFALSE)
        elif isinstance(value, int):
            raw = value.to_bytes(8, "little", signed=True)
            write(pickle.LONG1 + bytes([len(raw)]) + raw)
        elif isinstance(value, float):
            write(pickle.BINFLOAT + struct.pack(">d", value))
        elif isinstance(value, str):
            raw = value.encode()
            write(pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw)
        elif isinstance(value, tuple):
            write(pickle.MARK)
            self._save_all(value)
            write(pickle.TUPLE)
        elif isinstance(value, dict):
            write(pickle.EMPTY_DICT + pickle.MARK)
            self._save_all(itertools.chain.from_iterable(value.items()))
            write(pickle.SETITEMS)
        elif isinstance(value, np.ndarray):
            self._save_tensor(value)
        else:
            raise TypeError(f"cannot write {type(value).__name__} into a PyTorch checkpoint")

    def _save_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self._save(value)

    def _save_tensor(self, array: np.ndarray) -> None:
        if array.dtype != np.float32:
            raise TypeError(f"only float32 arrays are written into a PyTorch checkpoint, got {array.dtype}")
        # The same array object under two keys becomes one storage, as PyTorch writes a shared parameter.
        key = self._keys.setdefault(id(array), len(self.storages))
        if key == len(self.storages):
            self.storages.append(array)
        strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
        write = self.out.write
        write(pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + pickle.MARK + pickle.MARK)
        self._save("storage")
        write(pickle.GLOBAL + b"torch\nFloatStorage\n")
        self._save_all((str(key), "cpu", array.size))
        write(pickle.TUPLE + pickle.BINPERSID)
        self._save_all((0, tuple(int(n) for n in array.shape), strides, False))
        write(pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE)
        write(pickle.TUPLE + pickle.REDUCE)


def write(path: str | os.PathLike, tree: dict) -> None:
    """Write a tree of dicts, strings, numbers and float32 arrays as a `.pth` that `torch.load(weights_only=True)` reads.

    An array object that stands under several keys is stored once. The file appears whole or not at all.
    """
    path = os.fspath(path)
    root = os.path.splitext(os.path.basename(path))[0]
    pickler = _TensorPickler()
    body = pickler.dump(tree)
    with atomic_path(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{root}/data.pkl", body)
        archive.writestr(f"{root}/byteorder", "little")
        for key, array in enumerate(pickler.storages):
            archive.writestr(f"{root}/data/{key}", np.ascontiguousarray(array).tobytes())
        archive.writestr(f"{root}/version", "3\n")

"""Where embeddings go: one file in the end, parts on the way."""

import dataclasses
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from geomoe.checks import check_count
from geomoe.data.preprocess import InputSpec
from geomoe.embeddings.files import FORMATS, RASTERS, write_npz, write_parquet
from geomoe.embeddings.item import write_item
from geomoe.embeddings.rasters import INTERLEAVES, write_geotiff
from geomoe.embeddings.vectors import Columns, StoredParts, check_dtype
from geomoe.embeddings.zarr_maps import check_zarr, write_zarr
from geomoe.files import atomic_open
from geomoe.models.pooling import TOKENS, Pool, check_pool, check_pooled, pool_name
from geomoe.pretrained import PretrainedEncoder
from geomoe.training import parallel
from geomoe.version import __version__

_FACTS = "facts.json"
_ANEW = "remove the folder to start anew"
BLOCK = 8192  # patches of a part, or a little more


class Parts:
    """The parts of an output, in a folder OUTPUT.parts beside it; a run that was interrupted goes on with what is missing.

    Each part covers some of the inputs: patches of a dataset, files, rows of windows. Several processes write parts of one
    folder, which all of them must see; each makes these parts at the same point of its run.

    Args:
        output: the file that the parts become.
        facts: plain values that say what is being written.
        total: number of inputs.

    Raises:
        ValueError: there are parts of another run, with other facts.
    """

    def __init__(self, output: str | os.PathLike[str], facts: Mapping[str, Any], total: int) -> None:
        self.folder, self.total = f"{os.fspath(output)}.parts", total
        self._facts = json.loads(json.dumps(facts))
        self._check_facts()
        self._missing = self.missing()
        self.begun = total - sum(stop - first for first, stop in self._missing)  # inputs that earlier runs covered
        parallel.wait("parts were listed")  # before one process adds to them

    def _check_facts(self) -> bool:
        """Whether there are parts, of this run; ValueError where they are another's, or do not say whose they are."""
        path = os.path.join(self.folder, _FACTS)
        if not os.path.exists(path):
            if self._ranges():
                raise ValueError(f"{self.folder} holds parts without {_FACTS}, which says whose they are; {_ANEW}")
            return False
        try:
            with open(path) as file:
                before = dict(json.load(file))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}); {_ANEW}") from None
        if differ := sorted(key for key in {*before, *self._facts} if before.get(key) != self._facts.get(key)):
            other = f"parts of another run ({', '.join(differ)} differ)"
            raise ValueError(f"{self.folder} holds {other}; {_ANEW}")
        return True

    def _ranges(self) -> list[tuple[int, int]]:
        """What the parts cover, in order: the first input of each, and the first after it."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        found = sorted((int(m[1]), int(m[2])) for m in map(re.compile(r"(\d+)-(\d+)\.npz").fullmatch, names) if m)
        reached, ranges = 0, []
        for first, stop in found:
            if first >= reached:  # others are of two runs at once, and cover nothing
                ranges.append((first, stop))
                reached = stop
        return ranges

    def missing(self) -> list[tuple[int, int]]:
        """The ranges of inputs that no part covers."""
        ranges = [(0, 0), *self._ranges(), (self.total, self.total)]
        return [(stop, first) for (_, stop), (first, _) in zip(ranges, ranges[1:]) if stop < first]

    def share(self) -> list[tuple[int, int]]:
        """Of the ranges that were missing at the start, what this process is to add: as many inputs as each of the others."""
        first_mine, stop_mine = parallel.share(sum(stop - first for first, stop in self._missing))
        mine, seen = [], 0
        for first, stop in self._missing:
            start, end = max(first, first + first_mine - seen), min(stop, first + stop_mine - seen)
            if start < end:
                mine.append((start, end))
            seen += stop - first
        return mine

    @property
    def done(self) -> int:
        """Number of inputs from the first on that are covered without a gap."""
        return next(iter(self.missing()), (self.total, 0))[0]

    @property
    def rows(self) -> int:
        """Number of rows of all parts."""
        return sum(len(self._columns(*covered, "embedded")["embedded"]) for covered in self._ranges())

    def _path(self, first: int, stop: int) -> str:
        return os.path.join(self.folder, f"{first:09d}-{stop:09d}.npz")

    def _columns(self, first: int, stop: int, *names: str) -> Columns:
        """The columns of a part, all or some."""
        path = self._path(first, stop)
        try:
            with np.load(path, allow_pickle=False) as part:
                return {name: part[name] for name in names or part.files}
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged ({error}); remove it, and the same command computes it again") from None

    def add(self, first: int, pieces: list[Columns], count: int = 1) -> None:
        """Write the part of `count` inputs from `first` on, the rows of some pieces after each other."""
        columns = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
        if not self._check_facts():  # a run that fails before its first part leaves nothing behind
            with atomic_open(os.path.join(self.folder, _FACTS)) as file:
                json.dump(self._facts, file)
        with atomic_open(self._path(first, first + count), "wb") as file:
            np.savez(file, **columns)  # type: ignore[arg-type]  # numpy before 2.3 has no allow_pickle

    def __iter__(self) -> Iterator[Columns]:
        for covered in self._ranges():
            yield self._columns(*covered)

    def remove(self) -> None:
        """Delete the folder, if there is one; what says whose the parts are goes last."""
        if os.path.isdir(self.folder):
            for covered in self._ranges():
                os.remove(self._path(*covered))
            shutil.rmtree(self.folder)


def _check_reachable(path: str | os.PathLike[str]) -> None:
    """Raise ValueError where a file cannot be made at a path, as far as its folders say it."""
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise ValueError(f"{os.fspath(path)} cannot be written: {folder} is no folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{os.fspath(path)} cannot be written: {folder} may not be written to")


@dataclasses.dataclass(frozen=True)
class Sink:
    """Where embeddings go, and how; ValueError where a value has no meaning, or the output is there already."""

    output: str | os.PathLike[str]  # a `.parquet`, `.npz` or (for scenes) `.tif` or `.zarr` file
    pool: Pool | None = None  # as for `PretrainedEncoder.embed`; None is "mean", and "tokens" for a map of them
    dtype: str = "float32"  # of the vectors in the file, of `geomoe.embeddings.vectors.DTYPES`
    batch_size: int = 256  # images at once
    progress: Callable[[int, int], None] = lambda done, total: None  # called with the patches done and that of all
    interleave: str = "pixel"  # of a GeoTIFF, of `geomoe.embeddings.rasters.INTERLEAVES`: quick to read by pixel, or by band

    def __post_init__(self) -> None:
        if os.path.splitext(os.fspath(self.output))[1] not in FORMATS:
            raise ValueError(f"{self.output}: embeddings are written as {', '.join(FORMATS)}")
        if self.pool is not None:
            check_pool(self.pool)
        check_dtype(self.dtype)
        check_count("batch_size", self.batch_size, 1)
        if self.interleave not in INTERLEAVES:
            raise ValueError(f"interleave = {self.interleave!r} is none of {', '.join(INTERLEAVES)}")
        if self.interleave != "pixel" and not os.fspath(self.output).endswith(".tif"):
            raise ValueError(f"interleave = {self.interleave!r} is for .tif; {self.output} would ignore it")
        if os.fspath(self.output).endswith(".zarr"):
            check_zarr()
        _check_reachable(self.output)
        if os.path.exists(self.output) and not os.path.exists(os.path.join(f"{os.fspath(self.output)}.parts", _FACTS)):
            raise ValueError(f"{self.output} is there already; remove it or take another name")

    @property
    def is_raster(self) -> bool:
        """Whether the output is a raster, which is for scenes alone."""
        return os.path.splitext(os.fspath(self.output))[1] in RASTERS

    def check_table(self) -> None:
        """Raise ValueError where the output is a raster, or has no meaning for whole patches."""
        if self.is_raster:
            raise ValueError(f"{self.output}: a raster of embeddings is for scenes; take .parquet or .npz")
        check_pooled(self.pool or "mean")

    def check_tokens(self, resolution: str) -> None:
        """Raise ValueError where the output, or the pool, does not suit a map of tokens."""
        if not self.is_raster:
            raise ValueError(f"{self.output}: resolution = {resolution!r} gives a raster; take {' or '.join(RASTERS)}")
        if self.pool not in (None, TOKENS):
            raise ValueError(f"resolution = {resolution!r} gives the patches' tokens; pool = {self.pool!r} would be ignored")

    def facts(
        self, encoder: PretrainedEncoder, spec: InputSpec, source: Mapping[str, Any], pool: Pool | None = None
    ) -> dict[str, Any]:
        """Say how embeddings come about, in plain values: for the file, and to tell one run from another."""
        return {
            "geomoe_version": __version__,
            "encoder": encoder.source,
            "encoder_sha256": encoder.fingerprint,
            "pool": pool_name(pool or self.pool or "mean"),
            "dtype": self.dtype,
            "input": encoder.record(spec),
            **source,
        }

    def embed(
        self, encoder: PretrainedEncoder, images: Any, columns: Columns, spec: InputSpec, valid: np.ndarray | None = None
    ) -> np.ndarray:
        """Embed the images of those rows of a block that are to be embedded; give a vector for each row.

        `valid` (N, H, W) bool are the pixels of these images that hold data, as for `PretrainedEncoder.embed`.
        """
        rows = columns["embedded"]
        lat, lon, time = (columns[key][rows] for key in ("latitude", "longitude", "time"))
        options: dict[str, Any] = dict(batch_size=self.batch_size, spec=spec, valid=valid)
        return self.spread(rows, encoder.embed(images, lat, lon, time, self.pool or "mean", **options))

    def spread(self, rows: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Spread embeddings over the rows of a block: those where `rows` is true, NaN for the others."""
        out = np.full((len(rows), z.shape[1]), np.nan, np.float32)
        out[rows] = z
        return out

    def finish(self, parts: Parts, facts: Mapping[str, Any], grid: Mapping[str, Any] | None = None) -> dict[str, int]:
        """Join all parts to the output, with `facts` and for a scene the grid of its raster; remove them; count the rows.

        Of several processes the first does it, when the others have added theirs.

        Raises:
            ValueError: inputs are missing.
        """
        parallel.wait("parts are complete")
        counts: dict[str, int] = {}
        if jax.process_index() == 0:
            for first, stop in parts.missing():
                lacks = f"lacks the inputs {first} to {stop - 1}"
                raise ValueError(f"{parts.folder} {lacks}: all processes must write to one folder, and no other run at once")
            counts = self.write(parts, facts, grid)
            parts.remove()
        parallel.wait("output is written")
        return {name: parallel.agreed(counts.get(name, 0)) for name in ("patches", "embedded")}

    def write(
        self, parts: Iterable[Columns], facts: Mapping[str, Any], grid: Mapping[str, Any] | None = None
    ) -> dict[str, int]:
        """Write the output, and a STAC item beside it for a scene with a CRS, from blocks that can be read several times."""
        output = os.fspath(self.output)
        stored = StoredParts(parts, self.dtype, one_scale=output.endswith(".zarr"))
        facts = {**facts, **stored.facts}
        rows = [part["embedded"] for part in parts]
        located = grid is not None and grid["crs"] is not None
        if grid is not None and located:
            write_item(output, facts, grid, stored)
        if output.endswith(".parquet"):
            write_parquet(output, stored, facts, footprints=located)
        elif output.endswith(".npz"):
            write_npz(output, stored, facts)
        elif grid is not None and output.endswith(".zarr"):
            write_zarr(output, stored, facts, grid)
        elif grid is not None:
            write_geotiff(output, stored, facts, grid, self.interleave)
        return {"patches": sum(map(len, rows)), "embedded": sum(int(row.sum()) for row in rows)}

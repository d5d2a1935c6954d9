"""Where embeddings go: one file in the end, parts on the way."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from geomoe.data.preprocess import InputSpec
from geomoe.embeddings.files import FORMATS, RASTERS, write_npz, write_parquet
from geomoe.embeddings.item import write_item
from geomoe.embeddings.rasters import write_geotiff
from geomoe.embeddings.vectors import Columns, StoredParts, check_dtype
from geomoe.files import atomic_open
from geomoe.models.pooling import TOKENS, Pool, check_pool, check_pooled, pool_name
from geomoe.pretrained import PretrainedEncoder
from geomoe.version import __version__

BLOCK = 8192  # patches of a part, or a little more


class Parts:
    """The parts of an output, in a folder OUTPUT.parts beside it; a run that was interrupted goes on after the last one.

    `facts` are plain values that say what is being written; parts of another run, with other facts, are a ValueError.
    """

    def __init__(self, output: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
        self.folder = f"{os.fspath(output)}.parts"
        path = os.path.join(self.folder, "facts.json")
        facts = json.loads(json.dumps(facts))
        if not os.path.exists(path):
            with atomic_open(path) as file:
                json.dump(facts, file)
            return
        with open(path) as file:
            before = json.load(file)
        if differ := sorted(key for key in {*before, *facts} if before.get(key) != facts.get(key)):
            other = f"parts of another run ({', '.join(differ)} differ)"
            raise ValueError(f"{self.folder} holds {other}; remove the folder to start anew")

    def _path(self, index: int) -> str:
        return os.path.join(self.folder, f"{index:06d}.npz")

    @property
    def done(self) -> int:
        """Number of parts from the first on without a gap."""
        count = 0
        while os.path.exists(self._path(count)):
            count += 1
        return count

    @property
    def rows(self) -> int:
        """Number of rows of these parts."""
        return sum(len(self._columns(index, "embedded")["embedded"]) for index in range(self.done))

    def _columns(self, index: int, *names: str) -> Columns:
        """The columns of a part, all or some."""
        with np.load(self._path(index), allow_pickle=False) as part:
            return {name: part[name] for name in names or part.files}

    def add(self, index: int, pieces: list[Columns]) -> None:
        """Write a part, the rows of some pieces after each other."""
        columns = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
        with atomic_open(self._path(index), "wb") as file:
            np.savez(file, allow_pickle=False, **columns)

    def __iter__(self) -> Iterator[Columns]:
        for index in range(self.done):
            yield self._columns(index)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)


@dataclasses.dataclass(frozen=True)
class Sink:
    """Where embeddings go, and how; ValueError where a value has no meaning, or the output is there already."""

    output: str | os.PathLike[str]  # a `.parquet`, `.npz` or (for scenes) `.tif` file
    pool: Pool | None = None  # as for `PretrainedEncoder.embed`; None is "mean", and "tokens" for a map of them
    dtype: str = "float32"  # of the vectors in the file, of `geomoe.embeddings.vectors.DTYPES`
    batch_size: int = 256  # images at once
    progress: Callable[[int, int], None] = lambda done, total: None  # called with the patches done and that of all

    def __post_init__(self) -> None:
        if os.path.splitext(os.fspath(self.output))[1] not in FORMATS:
            raise ValueError(f"{self.output}: embeddings are written as {', '.join(FORMATS)}")
        if self.pool is not None:
            check_pool(self.pool)
        check_dtype(self.dtype)
        if os.path.exists(self.output) and not os.path.exists(f"{os.fspath(self.output)}.parts"):
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
        """Join all parts to the output, with `facts` and for a scene the grid of its raster; remove them; count the rows."""
        counts = self.write(parts, facts, grid)
        parts.remove()
        return counts

    def write(
        self, parts: Iterable[Columns], facts: Mapping[str, Any], grid: Mapping[str, Any] | None = None
    ) -> dict[str, int]:
        """Write the output, and a STAC item beside it for a scene with a CRS, from blocks that can be read several times."""
        output, stored = os.fspath(self.output), StoredParts(parts, self.dtype)
        facts = {**facts, **stored.facts}
        rows = [part["embedded"] for part in parts]
        located = grid is not None and grid["crs"] is not None
        if grid is not None and located:
            write_item(output, facts, grid, stored)
        if output.endswith(".parquet"):
            write_parquet(output, stored, facts, footprints=located)
        elif output.endswith(".npz"):
            write_npz(output, stored, facts)
        elif grid is not None:
            write_geotiff(output, stored, facts, grid)
        return {"patches": sum(map(len, rows)), "embedded": sum(int(row.sum()) for row in rows)}

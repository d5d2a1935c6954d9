"""Where embeddings go: one file in the end, parts on the way."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from geomoe.data.preprocess import InputSpec
from geomoe.embeddings.files import FORMATS, Columns, write_geotiff, write_npz, write_parquet
from geomoe.files import atomic_open
from geomoe.models.pooling import TOKENS, Pool, check_pool, pool_name
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
    pool: Pool = "mean"  # any but "tokens", as for `PretrainedEncoder.embed`
    dtype: str = "float32"  # or "float16", of the vectors in the file
    batch_size: int = 256  # images at once
    progress: Callable[[int, int], None] = lambda done, total: None  # called with the patches done and that of all

    def __post_init__(self) -> None:
        if os.path.splitext(os.fspath(self.output))[1] not in FORMATS:
            raise ValueError(f"{self.output}: embeddings are written as {', '.join(FORMATS)}")
        if TOKENS in check_pool(self.pool):
            raise ValueError("pool = 'tokens' would write every token of every patch; take 'mean', say")
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"dtype = {self.dtype!r} is not 'float32' or 'float16'")
        if os.path.exists(self.output):
            raise ValueError(f"{self.output} is there already; remove it or take another name")

    def check_table(self) -> None:
        """Raise ValueError where the output is a raster, which is for the windows of a scene alone."""
        if os.fspath(self.output).endswith(".tif"):
            raise ValueError(f"{self.output}: a GeoTIFF of embeddings is for scenes; take .parquet or .npz")

    def facts(self, encoder: PretrainedEncoder, spec: InputSpec, source: Mapping[str, Any]) -> dict[str, Any]:
        """Say how embeddings come about, in plain values: for the file, and to tell one run from another."""
        return {
            "geomoe_version": __version__,
            "encoder": encoder.source,
            "encoder_sha256": encoder.fingerprint,
            "pool": pool_name(self.pool),
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
        return self.spread(rows, encoder.embed(images, lat, lon, time, self.pool, **options))

    def spread(self, rows: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Spread embeddings over the rows of a block: those where `rows` is true, NaN for the others."""
        out = np.full((len(rows), z.shape[1]), np.nan, self.dtype)
        out[rows] = z
        return out

    def finish(self, parts: Parts, facts: Mapping[str, Any], grid: Mapping[str, Any] | None = None) -> dict[str, int]:
        """Join all parts to the output, with `facts` and for a scene the grid of its windows; remove them; count the rows."""
        output = os.fspath(self.output)
        rows = [part["embedded"] for part in parts]
        if output.endswith(".parquet"):
            write_parquet(output, parts, facts, footprints=grid is not None)
        elif output.endswith(".npz"):
            write_npz(output, parts, facts)
        elif grid is not None:
            write_geotiff(output, parts, facts, grid)
        parts.remove()
        return {"patches": sum(map(len, rows)), "embedded": sum(int(row.sum()) for row in rows)}

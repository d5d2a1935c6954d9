"""Where embeddings go: one file in the end, parts on the way."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geomoe.data.preprocess import InputSpec
from geomoe.embeddings.parts import Parts
from geomoe.embeddings.writers import FORMATS, Grid, write_geotiff, write_npz, write_parquet
from geomoe.models.pooling import TOKENS, Pool, check_pool, pool_name, pool_width
from geomoe.version import __version__

if TYPE_CHECKING:
    from geomoe.pretrained import PretrainedEncoder

Progress = Callable[[int, int], None]  # patches done, of how many

BLOCK = 8192  # patches of a part


@dataclasses.dataclass(frozen=True)
class Sink:
    """Where embeddings go, and how.

    Attributes:
        output: a `.parquet`, `.npz` or (for scenes) `.tif` file.
        pool: any but "tokens", as for `PretrainedEncoder.embed`.
        dtype: "float32" or "float16", of the vectors in the file.
        batch_size: images at once.
        progress: called with the patches done and that of all.

    Raises:
        ValueError: a value has no meaning, or the output is there already.
    """

    output: str | os.PathLike[str]
    pool: Pool = "mean"
    dtype: str = "float32"
    batch_size: int = 256
    progress: Progress = lambda done, total: None

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

    def facts(self, encoder: PretrainedEncoder, spec: InputSpec | None, source: Mapping[str, Any]) -> dict[str, Any]:
        """Say how embeddings come about, in plain values: for the file, and to tell one run from another."""
        return {
            "geomoe_version": __version__,
            "encoder": encoder.source,
            "encoder_sha256": encoder.fingerprint,
            "pool": pool_name(self.pool),
            "dtype": self.dtype,
            "input": encoder.record(spec or InputSpec()),
            **source,
        }

    def embed(
        self, encoder: PretrainedEncoder, images: Any, lat: np.ndarray, lon: np.ndarray, time: np.ndarray, spec: InputSpec
    ) -> np.ndarray:
        """Embed images as `PretrainedEncoder.embed` does, with this sink's pool and batch size."""
        return encoder.embed(images, lat, lon, time, pool=self.pool, batch_size=self.batch_size, spec=spec)

    def vectors(self, encoder: PretrainedEncoder, embedded: np.ndarray, z: np.ndarray | None) -> np.ndarray:
        """Spread the embeddings of those rows that were embedded (None where none was); NaN for the others."""
        out = np.full((len(embedded), pool_width(encoder.config, self.pool)), np.nan, self.dtype)
        if z is not None:
            out[embedded] = z
        return out

    def finish(self, parts: Parts, facts: Mapping[str, Any], grid: Grid | None = None) -> dict[str, int]:
        """Join the parts to the output and remove them.

        Args:
            parts: all of them.
            facts: that the file holds.
            grid: of the windows of a scene.

        Returns:
            How many patches there are, and how many of them were embedded.
        """
        output = os.fspath(self.output)
        counts = {"patches": 0, "embedded": 0}
        for part in parts:
            counts["patches"] += len(part["embedded"])
            counts["embedded"] += int(part["embedded"].sum())
        if output.endswith(".parquet"):
            write_parquet(output, parts, facts, footprints=grid is not None)
        elif output.endswith(".npz"):
            write_npz(output, parts, facts)
        elif grid is not None:
            write_geotiff(output, parts, facts, grid)
        parts.remove()
        return counts

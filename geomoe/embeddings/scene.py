"""Embeddings of a whole scene: of its windows, or a map of its patches' tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from geomoe.data.preprocess import InputSpec
from geomoe.data.scene import SceneReader
from geomoe.data.windows import count_windows, window_stride
from geomoe.embeddings import sink as sinks
from geomoe.embeddings.rasters import RESOLUTIONS
from geomoe.embeddings.sink import Parts, Sink
from geomoe.embeddings.tokens import embed_tokens
from geomoe.embeddings.vectors import Columns
from geomoe.embeddings.windows import Scene, SceneWindows, open_windows
from geomoe.models.pooling import check_pooled
from geomoe.pretrained import PretrainedEncoder


@dataclasses.dataclass(frozen=True)
class SceneParts:
    """A scene that was embedded, before it is joined to a file."""

    parts: Parts
    facts: dict[str, Any]
    grid: dict[str, Any]  # height, width, transform, crs of the raster


def embed_scene(
    encoder: PretrainedEncoder,
    sink: Sink,
    scene: Scene,
    *,
    spec: InputSpec | None = None,
    resolution: str = "window",
    stride: int | None = None,
    min_valid: float = 0.5,
    max_cloud: float = 1.0,
    mask: Sequence[str] = (),
    time: np.datetime64 | str | None = None,
) -> dict[str, int]:
    """Embed a scene: its windows, to a table or to a raster with one pixel a window; or its patches, to a raster.

    Windows have the model's size and start every `stride` pixels from the upper left corner; those at the right and lower edge
    may reach beyond it, where there are no data. Window (i, j) of the raster covers rows i * stride to i * stride + size; the
    raster's pixel has its middle in the window's middle and is `stride` scene pixels wide.

    A map of tokens has one pixel a patch (resolution="token") or a pixel of the scene ("pixel"), each the mean of the tokens of
    all windows that cover it, with weights that fall to the window's edge; see `geomoe.embeddings.tokens`. A pixel is NaN
    where less than half of what it covers holds data, or no window that covers it counts.

    Memory, resumption and what is returned are as for `geomoe.embeddings.embed_dataset`.

    Args:
        scene: as for `geomoe.data.scene.open_scene`.
        spec: unit, sensor, bands ..., as far as the scene does not say them itself by its name and metadata file; what it says
            must not be contradicted. statistics="computed" are those of the whole scene, without what `mask` names, which is
            read once more for them.
        resolution: "window", "token" or "pixel".
        stride: in pixels. None is half the model's size, so that windows overlap by half; for "pixel" it is about an eighth,
            that every patch is cut at every shift.
        min_valid: windows with a smaller share of pixels that hold data are marked, not embedded.
        max_cloud: windows with a larger share of clouds, by the quality band, are marked, not embedded.
        mask: of `geomoe.landsat.QUALITY_CLASSES`; pixels that the quality band says to be of these count as without data.
        time: of acquisition in UTC, where the scene does not say it.

    Raises:
        SceneError: the scene cannot be used.
        ValueError: the unit is not the scene's, or an option has no meaning.
    """
    windows = open_windows(encoder, scene, spec, min_valid, max_cloud, mask, time)
    done = embed_parts(encoder, sink, windows, resolution, stride)
    return sink.finish(done.parts, done.facts, done.grid)


def embed_parts(
    encoder: PretrainedEncoder, sink: Sink, windows: SceneWindows, resolution: str = "window", stride: int | None = None
) -> SceneParts:
    """Embed a scene to the parts of an output, going on after those that are there already."""
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution = {resolution!r} is none of {', '.join(RESOLUTIONS)}")
    if jax.process_count() > 1:
        raise ValueError("a scene is embedded by one process; give each process other scenes, without joining them")
    if resolution != "window":
        return SceneParts(*embed_tokens(encoder, sink, windows, resolution, stride))
    info, size = windows.info, windows.size
    stride = window_stride(stride, size)
    check_pooled(sink.pool or "mean")
    height, width = (count_windows(length, size, stride) for length in (info.height, info.width))
    facts = sink.facts(encoder, windows.spec, {**windows.facts(), "resolution": resolution, "stride": stride})
    rows_a_part = max(min(sinks.BLOCK // width, height), 1)
    parts = Parts(sink.output, facts, -(-height // rows_a_part))
    rows_at_once = max(4 * sink.batch_size // width, 1)  # whole batches, but for the last
    sink.progress(min(parts.done * rows_a_part, height) * width, height * width)
    lefts = np.arange(width) * stride
    with windows.reader() as reader:
        for index in range(parts.done, parts.total):
            end, block = min((index + 1) * rows_a_part, height), []
            for start in range(index * rows_a_part, end, rows_at_once):
                rows = np.arange(start, min(start + rows_at_once, end))
                block.append(_embed_rows(encoder, sink, windows, reader, rows * stride, lefts, stride))
                sink.progress((int(rows[-1]) + 1) * width, height * width)
            parts.add(index, block)
    offset = (size - stride) / 2
    transform = info.transform @ info.transform.translation(offset, offset) @ info.transform.scale(stride)
    return SceneParts(parts, facts, dict(height=height, width=width, transform=transform, crs=info.crs))


def _embed_rows(
    encoder: PretrainedEncoder,
    sink: Sink,
    windows: SceneWindows,
    reader: SceneReader,
    tops: np.ndarray,
    lefts: np.ndarray,
    stride: int,
) -> Columns:
    """Embed the windows that start at some rows and columns of the scene."""
    columns, images, holds = windows.read(reader, tops, lefts)
    ids = [f"{windows.info.name}_{row // stride}_{left // stride}" for row in tops for left in lefts]
    masked = holds if windows.mask and len(holds) else None
    vector = sink.embed(encoder, images, columns, windows.spec, masked)
    return {"id": np.array(ids), **columns, "time": columns["time"].astype("datetime64[s]"), "vector": vector}

"""Embeddings of a whole scene, window by window."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from geomoe import landsat, metadata
from geomoe.data.preprocess import InputSpec, band_order, has_data
from geomoe.data.product_files import SceneFiles
from geomoe.data.scene import SceneError, SceneReader, check_mask, open_scene
from geomoe.embeddings import sink as sinks
from geomoe.embeddings.files import TILE, Columns
from geomoe.embeddings.sink import Parts, Sink
from geomoe.pretrained import PretrainedEncoder


def embed_scene(
    encoder: PretrainedEncoder,
    sink: Sink,
    scene: str | os.PathLike[str] | Sequence[str] | SceneFiles,
    *,
    spec: InputSpec | None = None,
    stride: int | None = None,
    min_valid: float = 0.5,
    max_cloud: float = 1.0,
    mask: Sequence[str] = (),
    time: np.datetime64 | str | None = None,
) -> dict[str, int]:
    """Embed a scene window by window, to a table or to a raster with one pixel a window.

    Windows have the model's size and start every `stride` pixels from the upper left corner; those at the right and lower edge
    may reach beyond it, where there are no data. Window (i, j) of the raster covers rows i * stride to i * stride + size; the
    raster's pixel has its middle in the window's middle and is `stride` scene pixels wide. Memory, resumption and what is
    returned are as for `geomoe.embeddings.embed_dataset`.

    Args:
        scene: as for `geomoe.data.scene.open_scene`.
        spec: unit, sensor, bands ..., as far as the scene does not say them itself by its name and metadata file; what it says
            must not be contradicted.
        stride: in pixels; None is half the model's size.
        min_valid: windows with a smaller share of pixels that hold data are marked, not embedded.
        max_cloud: windows with a larger share of clouds, by the quality band, are marked, not embedded.
        mask: of `geomoe.landsat.QUALITY_CLASSES`; pixels that the quality band says to be of these count as without data.
        time: of acquisition in UTC, where the scene does not say it.

    Raises:
        SceneError: the scene cannot be used.
        ValueError: the unit is not the scene's, or an option has no meaning.
    """
    size = encoder.config.img_size
    stride = size // 2 if stride is None else stride
    if not 1 <= stride <= size:
        raise ValueError(f"stride = {stride} must be between 1 and the {size} pixels of a window")
    for option, value in (("min_valid", min_valid), ("max_cloud", max_cloud)):
        if not 0 <= value <= 1:
            raise ValueError(f"{option} = {value} must be in [0, 1]")
    given = spec or InputSpec()
    info = open_scene(scene, given.bands, given.sensor)
    spec = info.spec(given)
    if max_cloud < 1 and info.qa is None:
        missing = "has no quality band (*_QA_PIXEL.TIF or *_BQA.TIF)"
        raise SceneError(f"{info.name} {missing}, so max_cloud = {max_cloud} means nothing")
    check_mask(info, mask)
    if mask and spec.nodata == "published":
        raise ValueError(f"nodata='published' lets pixels without data speak; mask = {', '.join(mask)} would be ignored")
    if time is not None:
        info = dataclasses.replace(info, time=metadata.parse_time(time) if isinstance(time, str) else time)
    bands = [band for band in encoder.bands if band in info.files]
    # Of Landsat 4 to 7 by title, which is the same whatever a sensor's numbers are.
    channels = [landsat.band_title(band) for band in bands] if landsat.lacks_coastal(info.sensor) else bands
    spec = dataclasses.replace(spec, sensor=info.sensor, bands=tuple(channels), resize_mode="exact")
    band_order(spec.channels(bands), encoder.bands, spec.fill_missing, info.sensor)  # raises where a band is missing
    height, width = (max(-(-(length - size) // stride), 0) + 1 for length in (info.height, info.width))
    origin = dict(scene=info.name, height=info.height, width=info.width, stride=stride, window=size, time=str(info.time))
    origin |= dict(
        min_valid=min_valid, max_cloud=max_cloud, mask=list(mask), transform=list(info.transform)[:6], crs=info.crs.to_wkt()
    )
    facts = sink.facts(encoder, spec, origin)
    parts = Parts(sink.output, facts)
    rows_a_part = max(min(sinks.BLOCK // width, height), 1)
    if os.fspath(sink.output).endswith(".tif"):  # whole rows of tiles, so that none is compressed twice
        rows_a_part = min(-(-rows_a_part // TILE) * TILE, height)
    rows_at_once = max(4 * sink.batch_size // width, 1)  # whole batches, but for the last
    sink.progress(min(parts.done * rows_a_part, height) * width, height * width)
    with SceneReader(info, bands, str(spec.unit)) as reader:
        for index in range(parts.done, -(-height // rows_a_part)):
            end, block = min((index + 1) * rows_a_part, height), []
            for start in range(index * rows_a_part, end, rows_at_once):
                rows = range(start, min(start + rows_at_once, end))
                block.append(_embed_rows(encoder, sink, reader, spec, rows, width, stride, min_valid, max_cloud, mask))
                sink.progress(rows.stop * width, height * width)
            parts.add(index, block)
    offset = (size - stride) / 2
    transform = info.transform @ info.transform.translation(offset, offset) @ info.transform.scale(stride)
    return sink.finish(parts, facts, dict(height=height, width=width, transform=transform, crs=info.crs))


def _embed_rows(
    encoder: PretrainedEncoder,
    sink: Sink,
    reader: SceneReader,
    spec: InputSpec,
    rows: range,
    width: int,
    stride: int,
    min_valid: float,
    max_cloud: float,
    mask: Sequence[str],
) -> Columns:
    """Embed the windows of some rows of the grid, `width` of them a row."""
    size = encoder.config.img_size
    tops = np.repeat(np.array(rows) * stride, width)
    lefts = np.tile(np.arange(width) * stride, len(rows))
    top = rows.start * stride
    strip_shape = ((len(rows) - 1) * stride + size, (width - 1) * stride + size)

    def cut(strip: np.ndarray, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        corners = zip(tops[which], lefts[which])
        return np.stack([strip[row - top : row - top + size, left : left + size] for row, left in corners])

    strip, clouds = reader.read(top, 0, *strip_shape), reader.clouds(top, 0, *strip_shape)
    holds = has_data(strip, reader.unit) & ~reader.flagged(mask, top, 0, *strip_shape)
    valid = cut(holds).mean(axis=(1, 2))
    cloud = np.full(len(tops), np.nan) if clouds is None else cut(clouds).mean(axis=(1, 2))
    embedded = (valid > 0) & (valid >= min_valid) & ~(cloud > max_cloud)
    lat, lon = reader.locations(tops + size / 2, lefts + size / 2)
    outline = [reader.locations(tops + y, lefts + x) for y, x in ((0, 0), (0, size), (size, size), (size, 0), (0, 0))]
    columns = {
        "id": np.array([f"{reader.info.name}_{row // stride}_{left // stride}" for row, left in zip(tops, lefts)]),
        "latitude": lat,
        "longitude": lon,
        "time": np.full(len(tops), reader.info.time),
        "valid_fraction": valid.astype(np.float32),
        "cloud_fraction": cloud.astype(np.float32),
        "embedded": embedded,
        "footprint": np.stack([np.stack([x, y], axis=-1) for y, x in outline], axis=1),
    }
    images = cut(strip, embedded) if embedded.any() else strip[:0]
    vector = sink.embed(encoder, images, columns, spec, cut(holds, embedded) if mask and embedded.any() else None)
    return {**columns, "time": columns["time"].astype("datetime64[s]"), "vector": vector}

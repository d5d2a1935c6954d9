"""Embeddings of a dataset, of a folder of patches or of a scene, in bounded memory, resumable.

Everything runs in blocks: a block is read, embedded and written as a part before the next one. `Sink` is where parts go.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data import preprocess
from geomoe.data.geotiff import PatchError, read_patch
from geomoe.data.scene import SceneError, SceneReader, open_scene
from geomoe.embeddings.writers import FORMATS, Parts, write_geotiff, write_npz, write_parquet
from geomoe.models.pooling import check_pool, pool_width
from geomoe.pretrained import PretrainedEncoder

Progress = Callable[[int, int], None]  # patches done, of how many

_BLOCK = 8192  # patches of a part


@dataclasses.dataclass(frozen=True)
class Sink:
    """Where embeddings go, and how.

    Attributes:
        output: a `.parquet`, `.npz` or (for scenes) `.tif` file.
        pool: any but "tokens", as for `PretrainedEncoder.embed`.
        dtype: "float32" or "float16", of the vectors in the file.
        batch_size: images at once.
        progress: called with the patches done and their number.
    """

    output: str | os.PathLike
    pool: str = "mean"
    dtype: str = "float32"
    batch_size: int = 256
    progress: Progress = lambda done, total: None

    def __post_init__(self):
        if os.path.splitext(os.fspath(self.output))[1] not in FORMATS:
            raise ValueError(f"{self.output}: embeddings are written as {', '.join(FORMATS)}")
        if "tokens" in check_pool(self.pool):
            raise ValueError("pool = 'tokens' would write every token of every patch; take 'mean', say")
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"dtype = {self.dtype!r} is not 'float32' or 'float16'")
        if os.path.exists(self.output):
            raise ValueError(f"{self.output} is there already; remove it or take another name")

    @property
    def is_raster(self) -> bool:
        return os.fspath(self.output).endswith(".tif")


def _facts(
    encoder: PretrainedEncoder, sink: Sink, source: Mapping[str, Any], given: preprocess.InputSpec | None
) -> dict[str, Any]:
    import geomoe

    return {
        "geomoe_version": geomoe.__version__,
        "encoder": encoder.source,
        "encoder_sha256": encoder.fingerprint,
        "pool": sink.pool,
        "dtype": sink.dtype,
        "input": encoder.record(given),
        **source,
    }


def _finish(sink: Sink, parts: Parts, facts: Mapping[str, Any], grid: Mapping[str, Any] | None = None) -> dict[str, int]:
    output = os.fspath(sink.output)
    counts = {"patches": 0, "embedded": 0}
    for part in parts:
        counts["patches"] += len(part["embedded"])
        counts["embedded"] += int(part["embedded"].sum())
    if output.endswith(".parquet"):
        write_parquet(output, parts, facts, footprints=grid is not None)
    elif output.endswith(".npz"):
        write_npz(output, parts, facts)
    else:
        write_geotiff(output, parts, facts, grid)
    parts.remove()
    return counts


def _vectors(embedded: np.ndarray, z: np.ndarray | None, sink: Sink, encoder: PretrainedEncoder) -> np.ndarray:
    """The embeddings `z` of those that were embedded (None where none was), NaN for the others."""
    out = np.full((len(embedded), pool_width(encoder.config, sink.pool)), np.nan, sink.dtype)
    if z is not None:
        out[embedded] = z
    return out


def embed_dataset(
    encoder: PretrainedEncoder,
    sink: Sink,
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike = "data",
    resize_mode: str = "centre_crop",
    hour: str = "utc",
) -> dict[str, int]:
    """Embeds a split of a prepared dataset; patches without any data are marked, not embedded.

    Args:
        name, split, data_dir, resize_mode, hour: as for `geomoe.data.load`.

    Returns:
        How many patches there are, and how many of them were embedded.
    """
    if sink.is_raster:
        raise ValueError(f"{sink.output}: a GeoTIFF of embeddings is for scenes; take .parquet or .npz")
    from geomoe import data

    source = data.builder(name, data_dir)
    classes = list(source.info.features["labels"].feature.names or ())
    made_of = dict(dataset=source.info.full_name, split=split, resize_mode=resize_mode, hour=hour, classes=classes)
    facts = _facts(encoder, sink, made_of, None)
    parts = Parts(sink.output, {**facts, "block": _BLOCK})
    total, done = data.num_examples(source, split), parts.done
    batches_a_part = max(_BLOCK // sink.batch_size, 1)
    size = batches_a_part * sink.batch_size
    options = dict(img_size=encoder.config.img_size, resize_mode=resize_mode, hour=hour, batch_size=sink.batch_size)
    loaded = data.load(source, split, statistics=encoder.statistics, start_batch=done * batches_a_part, **options)
    sink.progress(min(done * size, total), total)
    block: list[dict[str, np.ndarray]] = []
    seen = done * size
    for batch in loaded.as_numpy_iterator():
        valid = batch["valid"].mean(axis=(1, 2))
        embedded = valid > 0
        pairs = [batch[key][embedded] for key in metadata.FIELDS]
        z = encoder.embed_batch(batch["image"][embedded], pairs, sink.pool, sink.batch_size)
        columns = {
            "id": batch["id"].astype(str),
            "latitude": batch["latitude"].astype(np.float64),
            "longitude": batch["longitude"].astype(np.float64),
            "time": np.array([metadata.parse_time(t) for t in batch["time"]], "datetime64[s]"),
            "valid_fraction": valid.astype(np.float32),
            "embedded": embedded,
            "vector": _vectors(embedded, z, sink, encoder),
        }
        if classes:
            columns["labels"] = batch["labels"].astype(np.int8)
        block.append(columns)
        seen += len(valid)
        sink.progress(seen, total)
        if len(block) == batches_a_part or seen >= total:
            parts.add(done, {key: np.concatenate([b[key] for b in block]) for key in block[0]})
            done, block = done + 1, []
    return _finish(sink, parts, facts)


def embed_folder(
    encoder: PretrainedEncoder,
    sink: Sink,
    folder: str | os.PathLike,
    *,
    given: preprocess.InputSpec | None = None,
    skipped: Callable[[PatchError], None] = lambda error: None,
) -> dict[str, int]:
    """Embeds every GeoTIFF below a folder, each one a patch; place and time are read from file and name.

    Patches without any data are marked, not embedded.

    Args:
        given: what the images are; sizes may differ where `resize_mode` is not "exact".
        skipped: called for each file that cannot be read.

    Returns:
        How many patches there are, and how many of them were embedded.

    Raises:
        ValueError: there is no GeoTIFF.
    """
    if sink.is_raster:
        raise ValueError(f"{sink.output}: a GeoTIFF of embeddings is for scenes; take .parquet or .npz")
    given = given or preprocess.InputSpec(resize_mode="centre_crop")
    root = os.fspath(folder)
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root} is no folder")
    files = sorted(
        os.path.relpath(os.path.join(where, name), root)
        for where, _, names in os.walk(root)
        for name in names
        if name.lower().endswith((".tif", ".tiff"))
    )
    if not files:
        raise ValueError(f"{root} holds no .tif file")
    facts = _facts(encoder, sink, {"folder": os.path.abspath(root), "files": len(files)}, given)
    parts = Parts(sink.output, facts)
    sink.progress(min(parts.done * _BLOCK, len(files)), len(files))
    for index in range(parts.done, -(-len(files) // _BLOCK)):
        block = files[index * _BLOCK : (index + 1) * _BLOCK]
        pieces = []
        for start in range(0, len(block), sink.batch_size):
            pieces.append(_patch_rows(encoder, sink, root, block[start : start + sink.batch_size], given, skipped))
            sink.progress(min(index * _BLOCK + start + sink.batch_size, len(files)), len(files))
        parts.add(index, {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]})
    return _finish(sink, parts, facts)


# The types in which files hold each unit.
_DTYPES = {
    "collection2_dn": ("uint16",),
    "level1_dn": ("uint16",),
    "reflectance": ("float32", "float64"),
    "uint8": ("uint8",),
}


def _patch_rows(
    encoder: PretrainedEncoder,
    sink: Sink,
    root: str,
    names: Sequence[str],
    given: preprocess.InputSpec,
    skipped: Callable[[PatchError], None],
) -> dict[str, np.ndarray]:
    """Rows of the readable ones of some files."""
    count = len(given.channels(encoder.bands))
    ids, patches = [], []
    for name in names:
        try:
            path = os.path.join(root, name)
            patches.append(read_patch(path, count, need_crs=False, keep_nodata=True, dtypes=_DTYPES[given.unit]))
            ids.append(os.path.splitext(name)[0])
        except PatchError as error:
            skipped(error)
    valid = np.array([1 - _without_data(patch.image).mean() for patch in patches], np.float32)
    embedded = valid > 0
    columns = {
        "id": np.array(ids, str),
        "latitude": np.array([patch.latitude for patch in patches], np.float64),
        "longitude": np.array([patch.longitude for patch in patches], np.float64),
        "time": np.array([_patch_time(i, patch.date_tag) for i, patch in zip(ids, patches)], "datetime64[s]"),
        "valid_fraction": valid,
        "embedded": embedded,
    }
    place = {short: columns[name][embedded] for short, name in (("lat", "latitude"), ("lon", "longitude"), ("time", "time"))}
    images = [patch.image for patch, ok in zip(patches, embedded) if ok]
    z = _embed(encoder, sink, images, place, given) if images else None
    columns["vector"] = _vectors(embedded, z, sink, encoder)
    return columns


def _without_data(image: np.ndarray) -> np.ndarray:
    """(..., C) -> (...): pixels that lack data in some band."""
    return (np.isnan(image) if image.dtype.kind == "f" else image == 0).any(axis=-1)


def _embed(
    encoder: PretrainedEncoder, sink: Sink, images: Any, place: Mapping[str, Any], given: preprocess.InputSpec
) -> np.ndarray:
    options = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    return encoder.embed(images, **place, pool=sink.pool, batch_size=sink.batch_size, **options)


def _patch_time(name: str, date_tag: str) -> np.datetime64:
    try:
        told = metadata.time_from_name(os.path.basename(name))
        if told is None and date_tag:
            told = np.datetime64(f"{date_tag[:10].replace(':', '-')}T{date_tag[11:19]}", "s")
    except ValueError:
        told = None
    return np.datetime64("NaT", "s") if told is None else told


def embed_scene(
    encoder: PretrainedEncoder,
    sink: Sink,
    scene: str | os.PathLike | Sequence[str],
    *,
    given: preprocess.InputSpec | None = None,
    stride: int | None = None,
    min_valid: float = 0.5,
    max_cloud: float = 1.0,
    time: np.datetime64 | str | None = None,
) -> dict[str, int]:
    """Embeds a scene window by window, to a table or to a raster with one pixel a window.

    Windows have the model's size and start every `stride` pixels from the upper left corner; those at the right and lower edge
    may reach beyond it, where there are no data. Window (i, j) of the raster covers rows i * stride to i * stride + size; the
    raster's pixel has its middle in the window's middle and is `stride` scene pixels wide.

    Args:
        scene: as for `geomoe.data.scene.open_scene`.
        given: unit and bands. For "level1_dn" without a sun elevation that of the metadata file is taken.
        stride: in pixels; None is half the model's size.
        min_valid: windows with a smaller share of pixels that hold data are marked, not embedded.
        max_cloud: windows with a larger share of clouds, by the quality band, are marked, not embedded.
        time: of acquisition in UTC, where the scene does not tell it.

    Returns:
        How many windows there are, and how many of them were embedded.

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
    given = given or preprocess.InputSpec()
    info = open_scene(scene, given.bands, given.sensor if landsat.lacks_coastal(given.sensor) else None)
    if info.level == 1 and given.unit == "collection2_dn":
        raise SceneError(f"{info.name} is a level-1 product, its numbers are no surface reflectance: pass unit='level1_dn'")
    if info.level == 2 and given.unit == "level1_dn":
        raise SceneError(f"{info.name} is a level-2 product: pass unit='collection2_dn'")
    if max_cloud < 1 and info.qa is None:
        raise SceneError(
            f"{info.name} has no quality band (*_QA_PIXEL.TIF or *_BQA.TIF), so max_cloud = {max_cloud} means nothing"
        )
    if given.unit == "level1_dn" and given.sun_elevation is None:
        given = dataclasses.replace(given, sun_elevation=info.sun_elevation)
    names = [band for band in encoder.bands if band in info.files]
    told = names
    if landsat.lacks_coastal(info.sensor):  # by colour, which is the same whatever a sensor's numbers are
        told = [landsat.BAND_TITLES[landsat.BANDS.index(band)] for band in names]
    given = dataclasses.replace(given, sensor=info.sensor, bands=tuple(told), resize_mode="exact")
    preprocess.band_order(given.bands, encoder.bands, given.fill_missing, given.sensor)  # says what is missing
    when = info.time if time is None else np.datetime64(time, "s")
    high, wide = (max(-(-(length - size) // stride), 0) + 1 for length in (info.height, info.width))
    made_of = dict(scene=info.name, height=info.height, width=info.width, stride=stride, window=size, time=str(when))
    made_of |= dict(min_valid=min_valid, max_cloud=max_cloud, transform=list(info.transform)[:6], crs=info.crs.to_wkt())
    facts = _facts(encoder, sink, made_of, given)
    parts = Parts(sink.output, facts)
    rows_a_part = max(min(_BLOCK // wide, high), 1)
    if sink.is_raster:  # whole rows of tiles, so that none is compressed twice
        rows_a_part = min(-(-rows_a_part // 128) * 128, high)
    rows_at_once = max(4 * sink.batch_size // wide, 1)  # whole batches, but for the last
    offset = (size - stride) / 2
    transform = info.transform @ info.transform.translation(offset, offset) @ info.transform.scale(stride)
    grid = dict(height=high, width=wide, transform=transform, crs=info.crs)
    sink.progress(min(parts.done * rows_a_part, high) * wide, high * wide)
    with SceneReader(info, names) as reader:
        for index in range(parts.done, -(-high // rows_a_part)):
            end, block = min((index + 1) * rows_a_part, high), []
            for start in range(index * rows_a_part, end, rows_at_once):
                rows = range(start, min(start + rows_at_once, end))
                block.append(_window_rows(encoder, sink, reader, given, rows, wide, stride, min_valid, max_cloud, when))
                sink.progress(rows.stop * wide, high * wide)
            parts.add(index, {key: np.concatenate([piece[key] for piece in block]) for key in block[0]})
    return _finish(sink, parts, facts, grid)


def _window_rows(
    encoder: PretrainedEncoder,
    sink: Sink,
    reader: SceneReader,
    given: preprocess.InputSpec,
    rows: range,
    wide: int,
    stride: int,
    min_valid: float,
    max_cloud: float,
    when: np.datetime64,
) -> dict[str, np.ndarray]:
    """The windows of some rows of the grid."""
    size = encoder.config.img_size
    tops = np.repeat(np.array(rows) * stride, wide)
    lefts = np.tile(np.arange(wide) * stride, len(rows))
    top, height, width = rows.start * stride, (len(rows) - 1) * stride + size, (wide - 1) * stride + size

    def cut(strip: np.ndarray) -> np.ndarray:
        return np.stack([strip[y - top : y - top + size, x : x + size] for y, x in zip(tops, lefts)])

    strip = reader.read(top, 0, height, width)
    valid = 1 - cut(_without_data(strip)).mean(axis=(1, 2))
    clouds = reader.clouds(top, 0, height, width)
    cloud = np.full(len(tops), np.nan) if clouds is None else cut(clouds).mean(axis=(1, 2))
    embedded = (valid > 0) & (valid >= min_valid) & ~(cloud > max_cloud)
    lat, lon = reader.places(tops + size / 2, lefts + size / 2)
    corners = [(0, 0), (0, size), (size, size), (size, 0), (0, 0)]
    footprint = np.stack([np.stack(reader.places(tops + y, lefts + x)[::-1], axis=-1) for y, x in corners], axis=1)
    z = None
    if embedded.any():
        place = dict(lat=lat[embedded], lon=lon[embedded], time=np.full(int(embedded.sum()), when))
        windows = np.stack([strip[y - top : y - top + size, x : x + size] for y, x in zip(tops[embedded], lefts[embedded])])
        z = _embed(encoder, sink, windows, place, given)
    return {
        "id": np.array([f"{reader.info.name}_{y // stride}_{x // stride}" for y, x in zip(tops, lefts)]),
        "latitude": lat,
        "longitude": lon,
        "time": np.full(len(tops), when, "datetime64[s]"),
        "valid_fraction": valid.astype(np.float32),
        "cloud_fraction": cloud.astype(np.float32),
        "embedded": embedded,
        "vector": _vectors(embedded, z, sink, encoder),
        "footprint": footprint,
    }

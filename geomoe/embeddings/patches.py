"""Embeddings of patches: of a prepared dataset, or of a folder of GeoTIFFs."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from geomoe import data, landsat, metadata
from geomoe.data.folder import File, find_geotiffs, fingerprint
from geomoe.data.geotiff import Patch, PatchError, read_patch
from geomoe.data.preprocess import InputSpec, Part, check_bands, has_data, to_size
from geomoe.embeddings import sink as sinks
from geomoe.embeddings.sink import Parts, Sink
from geomoe.embeddings.vectors import Columns
from geomoe.pretrained import PretrainedEncoder
from geomoe.training import parallel


def embed_dataset(
    encoder: PretrainedEncoder,
    sink: Sink,
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] = "data",
    resize_mode: str = "centre_crop",
    hour: str = "utc",
    nodata: str = "masked",
    statistics: Mapping[str, Any] | str | None = None,
) -> dict[str, int]:
    """Embed a split of a prepared dataset; patches without any data are marked, not embedded.

    It runs in bounded memory, block by block, and goes on where an earlier run was interrupted. Several processes embed a
    share each, and the first of them writes the file.

    Args:
        encoder: from `geomoe.load`.
        sink: where the embeddings go.
        name, split, data_dir, resize_mode, hour: as for `geomoe.data.load`.
        nodata: of pixels without data, as for `geomoe.data.preprocess.InputSpec`.
        statistics: of the z-score, in Collection 2 digital numbers; "computed" takes those of the dataset's training split, or
            of this one where it has none; None takes the encoder's.

    Returns:
        How many patches there are, and how many of them were embedded.

    Raises:
        ValueError: the sink is a raster, or an option has no meaning.
    """
    sink.check_table()
    source = data.builder(name, data_dir)
    classes = list(source.info.features["labels"].feature.names or ())
    options: dict[str, Any] = dict(resize_mode=resize_mode, hour=hour)
    origin = dict(dataset=source.info.full_name, split=split, **options, classes=classes, records=data.fingerprint(source))
    if statistics == landsat.COMPUTED:
        statistics = data.compute_statistics(source, "train" if "train" in source.info.splits else split)
    spec = InputSpec(resize_mode=resize_mode, nodata=nodata, statistics=statistics)
    z_score = (spec.own_statistics or encoder.statistics).of_collection2()
    check_bands(z_score, encoder.bands)
    if statistics is not None:
        spec = dataclasses.replace(spec, statistics=z_score)
    facts = sink.facts(encoder, spec, origin)
    parts = Parts(sink.output, facts, data.num_examples(source, split))
    options |= dict(img_size=encoder.config.img_size, batch_size=sink.batch_size, statistics=z_score)
    progress = _Progress(sink, parts)
    for first, stop in parts.share():
        block, waiting = list[Columns](), 0
        for batch in data.load(source, split, rows=(first, stop), **options).as_numpy_iterator():
            block.append(_rows_of_batch(encoder, sink, batch, spec, bool(classes)))
            waiting += len(batch["id"])
            progress.add(len(batch["id"]))
            if waiting >= sinks.BLOCK:
                parts.add(first, block, waiting)
                first, block, waiting = first + waiting, [], 0
        if waiting:
            parts.add(first, block, waiting)
    return sink.finish(parts, facts)


class _Progress:
    """Tells a sink of the patches that earlier runs and this process have done, and of all that this process is to do."""

    def __init__(self, sink: Sink, parts: Parts) -> None:
        self._sink, self._done = sink, parts.begun
        self._total = self._done + sum(stop - first for first, stop in parts.share())
        self.add(0)

    def add(self, count: int) -> None:
        self._done += count
        self._sink.progress(self._done, self._total)


def _rows_of_batch(encoder: PretrainedEncoder, sink: Sink, batch: dict[str, Any], spec: InputSpec, labelled: bool) -> Columns:
    valid = batch["valid"].mean(axis=(1, 2))
    embedded = valid > 0
    encoded = [batch[key][embedded] for key in metadata.FIELDS]
    holds = None if spec.nodata == "published" else batch["valid"][embedded]
    z = encoder.embed_batch(batch["image"][embedded], encoded, sink.pool or "mean", sink.batch_size, holds)
    columns = {
        "id": batch["id"].astype(str),
        "latitude": batch["latitude"].astype(np.float64),
        "longitude": batch["longitude"].astype(np.float64),
        "time": np.array([metadata.parse_time(text) for text in batch["time"]], "datetime64[s]"),
        "valid_fraction": valid.astype(np.float32),
        "embedded": embedded,
        "vector": sink.spread(embedded, z),
    }
    return {**columns, "labels": batch["labels"].astype(np.int8)} if labelled else columns


def embed_folder(
    encoder: PretrainedEncoder,
    sink: Sink,
    folder: str | os.PathLike[str],
    *,
    spec: InputSpec | None = None,
    skipped: Callable[[PatchError], None] = lambda error: None,
    cropped: Callable[[str, tuple[int, int]], None] = lambda path, size: None,
) -> dict[str, int]:
    """Embed every GeoTIFF below a folder, each one a patch, otherwise as `embed_dataset`; metadata is read from file and name.

    Args:
        folder: searched with its subfolders.
        spec: what the images are; sizes may differ where its `resize_mode` is not "exact". None stands for Collection 2 digital
            numbers of any size, cropped at the centre. statistics="computed" are those of all files, which every process reads
            once more for them.
        skipped: called for each file that cannot be read.
        cropped: called with the path, height and width of each file of which "centre_crop" leaves out more than a fifth: its
            embedding is that of its middle alone.

    Returns:
        The numbers of "patches", of those "embedded", and of files "skipped".

    Raises:
        FileNotFoundError, ValueError: there is no such folder, no GeoTIFF in it that can be used, or the sink is a raster.
    """
    sink.check_table()
    spec = spec or InputSpec(resize_mode="centre_crop")
    root = os.fspath(folder)
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root} is no folder")
    files = find_geotiffs(root)
    if not files:
        raise ValueError(f"{root} holds no .tif file")
    spec = _with_own_statistics(encoder, files, spec, root)
    origin = {"folder": os.path.abspath(root), "files": len(files), "files_sha256": fingerprint(files)}
    facts = sink.facts(encoder, spec, origin)
    parts, errors = Parts(sink.output, facts, len(files)), list[str]()
    progress = _Progress(sink, parts)

    def left_out(error: PatchError) -> None:
        errors.append(str(error))
        skipped(error)

    for first, stop in parts.share():
        for begin in range(first, stop, sinks.BLOCK):
            end, block = min(begin + sinks.BLOCK, stop), []
            for start in range(begin, end, sink.batch_size):
                batch = files[start : min(start + sink.batch_size, end)]
                block.append(_rows_of_files(encoder, sink, batch, spec, left_out, cropped))
                progress.add(len(batch))
            parts.add(begin, block, end - begin)
    parallel.wait("files are embedded")
    if not parallel.agreed(parts.rows):
        if jax.process_index() == 0:
            parts.remove()
        raise ValueError(f"none of the {len(files)} GeoTIFFs of {root} can be used{'; the first: '.join(['', *errors[:1]])}")
    counts = sink.finish(parts, facts)
    return counts | {"skipped": len(files) - counts["patches"]}


def _valid_fraction(image: np.ndarray, spec: InputSpec, size: int) -> float:
    """Share of the pixels of an image, of those that the model is given, that hold data."""
    holds = has_data(image, str(spec.known().unit))
    if spec.resize_mode == "centre_crop" and min(holds.shape) >= size:
        holds = to_size(holds[None, :, :, None], size, spec.resize_mode)[0, :, :, 0]
    return float(holds.mean())


def _is_cropped(size: tuple[int, int], spec: InputSpec, side: int) -> bool:
    """Whether a centre crop to a square of `side` leaves out more than a fifth of an image; a small one is enlarged first."""
    short = min(side, *size)
    return spec.resize_mode == "centre_crop" and short**2 < 0.8 * size[0] * size[1]


def _as_read(encoder: PretrainedEncoder, spec: InputSpec) -> InputSpec:
    """What files are read as: a user's names of their bands, or the model's where it has others than the sensor."""
    return dataclasses.replace(spec, bands=spec.bands or (None if encoder.bands == landsat.BANDS else encoder.bands))


def _describe(spec: InputSpec, of_file: InputSpec, patch: Patch) -> InputSpec:
    """What the pixels of a file are: names that a user gave go by the numbers of its sensor, others are the model's."""
    if spec.bands:
        return dataclasses.replace(spec, sensor=patch.sensor)
    return spec if of_file.bands else dataclasses.replace(spec, sensor="landsat8", bands=patch.bands)


def _with_own_statistics(encoder: PretrainedEncoder, files: Sequence[File], spec: InputSpec, root: str) -> InputSpec:
    """Compute the statistics of all files of a folder where they are asked for."""
    of_file = _as_read(encoder, spec)

    def readable() -> Iterator[Part]:
        for file in files:
            with contextlib.suppress(PatchError):  # which embedding it says
                patch = read_patch(file.path, of_file, need_crs=False, keep_nodata=True)
                yield _describe(spec, of_file, patch), patch.image, None

    return spec.measured(readable(), encoder.bands, f"the files of {root}")


def _rows_of_files(
    encoder: PretrainedEncoder,
    sink: Sink,
    files: list[File],
    spec: InputSpec,
    skipped: Callable[[PatchError], None],
    cropped: Callable[[str, tuple[int, int]], None],
) -> Columns:
    """Rows of the readable ones of some files."""
    of_file = _as_read(encoder, spec)
    ids, patches = [], []
    for file in files:
        try:
            patches.append(read_patch(file.path, of_file, need_crs=False, keep_nodata=True))
            ids.append(file.id)
        except PatchError as error:
            skipped(error)
            continue
        height, width = patches[-1].image.shape[:2]
        if _is_cropped((height, width), spec, encoder.config.img_size):
            cropped(file.path, (height, width))
    times = [metadata.acquisition_time(name=os.path.basename(i), date_tag=patch.date_tag) for i, patch in zip(ids, patches)]
    valid = np.array([_valid_fraction(patch.image, spec, encoder.config.img_size) for patch in patches], np.float32)
    columns = {
        "id": np.array(ids, str),
        "latitude": np.array([patch.latitude for patch in patches], np.float64),
        "longitude": np.array([patch.longitude for patch in patches], np.float64),
        "time": np.array(times, object),
        "valid_fraction": valid,
        "embedded": valid > 0,
    }
    described = [_describe(spec, of_file, patch) for patch in patches]
    kinds = [(tuple(each.bands or ()), each.sensor) for each in described]
    vector = sink.embed(encoder, [], {**columns, "embedded": np.zeros(len(patches), bool)}, spec)
    for kind in set(kinds):
        rows = (valid > 0) & np.array([one == kind for one in kinds])
        images = [patches[i].image for i in np.flatnonzero(rows)]
        if images:
            each = described[np.flatnonzero(rows)[0]]
            vector[rows] = sink.embed(encoder, images, {**columns, "embedded": rows}, each)[rows]
    return {**columns, "time": np.array(times, "datetime64[s]"), "vector": vector}

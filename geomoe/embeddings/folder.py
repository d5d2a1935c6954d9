"""Embeddings of a folder of GeoTIFF patches."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from geomoe import metadata
from geomoe.data.geotiff import PatchError, read_patch
from geomoe.data.preprocess import InputSpec, has_data
from geomoe.embeddings import sink as sinks
from geomoe.embeddings.parts import Columns, Parts
from geomoe.embeddings.sink import Sink

if TYPE_CHECKING:
    from geomoe.pretrained import PretrainedEncoder

# The types in which files hold each unit.
_DTYPES = {"collection2_dn": ("uint16",), "level1_dn": ("uint16",), "reflectance": ("float32", "float64"), "uint8": ("uint8",)}


def embed_folder(
    encoder: PretrainedEncoder,
    sink: Sink,
    folder: str | os.PathLike[str],
    *,
    spec: InputSpec | None = None,
    skipped: Callable[[PatchError], None] = lambda error: None,
) -> dict[str, int]:
    """Embed every GeoTIFF below a folder, each one a patch; metadata is read from file and name.

    Patches without any data are marked, not embedded. It runs in bounded memory, block by block, and goes on where an earlier
    run was interrupted.

    Args:
        encoder: from `geomoe.load`.
        sink: where the embeddings go.
        folder: searched with its subfolders.
        spec: what the images are; sizes may differ where its `resize_mode` is not "exact". None stands for Collection 2 digital
            numbers of any size, cropped at the centre.
        skipped: called for each file that cannot be read.

    Returns:
        How many patches there are, and how many of them were embedded.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no GeoTIFF in it, or the sink is a raster.
    """
    sink.check_table()
    spec = spec or InputSpec(resize_mode="centre_crop")
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
    facts = sink.facts(encoder, spec, {"folder": os.path.abspath(root), "files": len(files)})
    parts = Parts(sink.output, facts)
    sink.progress(min(parts.done * sinks.BLOCK, len(files)), len(files))
    for index in range(parts.done, -(-len(files) // sinks.BLOCK)):
        end = min((index + 1) * sinks.BLOCK, len(files))
        block = []
        for start in range(index * sinks.BLOCK, end, sink.batch_size):
            stop = min(start + sink.batch_size, end)
            block.append(_rows(encoder, sink, root, files[start:stop], spec, skipped))
            sink.progress(stop, len(files))
        parts.add(index, block)
    return sink.finish(parts, facts)


def _rows(
    encoder: PretrainedEncoder,
    sink: Sink,
    root: str,
    names: Sequence[str],
    spec: InputSpec,
    skipped: Callable[[PatchError], None],
) -> Columns:
    """Rows of the readable ones of some files."""
    bands = len(spec.channels(encoder.bands))
    ids, patches = [], []
    for name in names:
        path = os.path.join(root, name)
        try:
            patches.append(read_patch(path, bands, need_crs=False, keep_nodata=True, dtypes=_DTYPES[spec.unit]))
        except PatchError as error:
            skipped(error)
        else:
            ids.append(os.path.splitext(name)[0])
    times = [metadata.acquisition_time(name=os.path.basename(i), date_tag=patch.date_tag) for i, patch in zip(ids, patches)]
    valid = np.array([has_data(patch.image, spec.unit).mean() for patch in patches], np.float32)
    embedded = valid > 0
    columns = {
        "id": np.array(ids, str),
        "latitude": np.array([patch.latitude for patch in patches], np.float64),
        "longitude": np.array([patch.longitude for patch in patches], np.float64),
        "time": np.array(times, "datetime64[s]"),
        "valid_fraction": valid,
        "embedded": embedded,
    }
    z = None
    if embedded.any():
        images = [patch.image for patch, is_embedded in zip(patches, embedded) if is_embedded]
        lat, lon, time = (columns[key][embedded] for key in ("latitude", "longitude", "time"))
        z = sink.embed(encoder, images, lat, lon, time, spec)
    columns["vector"] = sink.vectors(encoder, embedded, z)
    return columns

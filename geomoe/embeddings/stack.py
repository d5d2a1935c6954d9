"""Several dates of one place: the embeddings of each on one grid, and their mean over the clear ones."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from geomoe.data.preprocess import InputSpec
from geomoe.data.raster import same_transform
from geomoe.data.scene import SceneError
from geomoe.embeddings.scene import SceneParts, embed_parts
from geomoe.embeddings.sink import Sink
from geomoe.embeddings.vectors import Columns
from geomoe.embeddings.windows import Scene, SceneWindows, open_windows
from geomoe.pretrained import PretrainedEncoder


def embed_stack(
    encoder: PretrainedEncoder,
    sink: Sink,
    scenes: Sequence[Scene],
    *,
    spec: InputSpec | None = None,
    resolution: str = "window",
    stride: int | None = None,
    min_valid: float = 0.5,
    max_cloud: float = 0.2,
    mask: Sequence[str] = (),
) -> dict[str, int]:
    """Embed scenes of several dates on one grid: each to a file of its own, and their mean to the output.

    The file of a date has the date, and the time of day where two scenes have one date, in its name: `map_20200518.tif` beside
    `map.tif`. A window or pixel of the mean is that of the dates on which it is embedded; a table says of how many (`dates`).

    Args:
        scenes: at least two, each as for `embed_scene`, of the same pixels.
        max_cloud: windows with a larger share of clouds, by the quality band, do not count on their date; 1 takes all.
        spec, resolution, stride, min_valid, mask: as for `embed_scene`.

    Returns:
        How many windows or pixels the mean has, and how many of them were embedded on any date.

    Raises:
        SceneError: a scene cannot be used, has no date, or lies on another grid than the first; nothing was written.
        ValueError: as for `embed_scene`.
    """
    if len(scenes) < 2:
        raise ValueError(f"a stack has at least two scenes, not {len(scenes)}; embed_scene takes one")
    stack = [open_windows(encoder, scene, spec, min_valid, max_cloud, mask) for scene in scenes]
    outputs = _outputs(os.fspath(sink.output), stack)
    sinks = [
        dataclasses.replace(sink, output=output, progress=functools.partial(_progress, sink, i, len(stack)))
        for i, output in enumerate(outputs)
    ]
    done = [embed_parts(encoder, one, windows, resolution, stride) for one, windows in zip(sinks, stack)]
    for one, scene_parts in zip(sinks, done):
        one.write(scene_parts.parts, scene_parts.facts, scene_parts.grid)
    counts = sink.write(_MeanParts(done), _mean_facts(done), done[0].grid)
    for scene_parts in done:
        scene_parts.parts.remove()
    return counts


def _progress(sink: Sink, index: int, count: int, done: int, total: int) -> None:
    sink.progress(index * total + done, count * total)


def _outputs(output: str, stack: Sequence[SceneWindows]) -> list[str]:
    """The file of each date; SceneError where scenes do not make a stack."""
    first, names = stack[0].info, list[str]()
    days = [str(windows.info.time.astype("datetime64[D]")) for windows in stack]
    for windows, day in zip(stack, days):
        info = windows.info
        if np.isnat(info.time):
            raise SceneError(f"{info.name}: a scene of a stack must say its date, by name, metadata file or STAC item")
        for what in ("crs", "height", "width", "transform"):
            one, other = getattr(first, what), getattr(info, what)
            if one != other and not (what == "transform" and same_transform(one, other, info.height, info.width)):
                differ = f"{what} {_short(other)} is not the {_short(one)} of {first.name}"
                raise SceneError(f"{info.name} lies on another grid: {differ}; bring them to one, with gdalwarp, say")
        stamp = day if days.count(day) == 1 else str(info.time.astype("datetime64[s]"))
        names.append("_{}".format(stamp.replace("-", "").replace(":", "")).join(os.path.splitext(output)))
    if len(set(names)) < len(names):
        raise SceneError(f"two scenes of the stack have one time: {', '.join(windows.info.name for windows in stack)}")
    return names


def _short(value: Any) -> str:
    return str(value) if not hasattr(value, "a") else str(tuple(value)[:6])


def _mean_facts(done: Sequence[SceneParts]) -> dict[str, Any]:
    """The facts of a mean: those that all dates share, and which they were."""
    facts = {key: value for key, value in done[0].facts.items() if key not in ("scene", "time", "files_sha256")}
    several = {"scenes": [one.facts["scene"] for one in done], "times": [one.facts["time"] for one in done]}
    inputs = {key: [one.facts["input"].get(key) for one in done] for key in facts["input"]}  # sun elevations differ
    common = {key: values[0] if all(value == values[0] for value in values) else values for key, values in inputs.items()}
    return {**facts, **several, "input": common}


class _MeanParts:
    """The mean of the blocks of several dates, row by row, over those on which a row is embedded."""

    def __init__(self, done: Sequence[SceneParts]) -> None:
        self._parts, self._name = [one.parts for one in done], done[0].facts["scene"]

    def __iter__(self) -> Iterator[Columns]:
        for blocks in zip(*self._parts, strict=True):
            embedded = np.stack([block["embedded"] for block in blocks])
            dates = embedded.sum(axis=0)
            mean = functools.partial(_mean, blocks, embedded, dates)
            first = blocks[0]
            columns = {"vector": mean("vector"), "embedded": dates > 0, "dates": dates.astype(np.int32)}
            if "id" in first:
                columns |= {key: first[key] for key in ("latitude", "longitude", "footprint")}
                columns["id"] = np.array([name.removeprefix(f"{self._name}_") for name in first["id"]])
                columns["time"] = np.full(len(dates), np.datetime64("NaT", "s"))  # of several
                columns |= {key: mean(key) for key in ("valid_fraction", "cloud_fraction")}
            yield columns


def _mean(blocks: Sequence[Columns], embedded: np.ndarray, dates: np.ndarray, name: str) -> np.ndarray:
    """The mean of a column over the dates that count, NaN where none does."""
    total = np.zeros(blocks[0][name].shape, np.float32)
    for block, rows in zip(blocks, embedded):
        total[rows] += block[name][rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / dates.reshape(-1, *(1,) * (total.ndim - 1)).astype(np.float32)

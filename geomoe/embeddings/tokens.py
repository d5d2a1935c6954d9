"""Maps of a scene's tokens: windows that overlap, blended so that their borders do not show.

A cell of the map is a patch, or a pixel of the scene. Its vector is the weighted mean of the tokens of all patches over it.
The weight of a patch falls linearly from the middle of its window to the edge, in both directions; in a map of pixels that of
a pixel falls in the same way to the edge of its patch. Windows of a map of pixels start at a step that has no factor in common
with the patch, so that patches are cut at every shift equally often.

Axes: E windows, R rows and C columns of the map, D width.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from geomoe.data.scene import SceneReader
from geomoe.embeddings.sink import Parts, Sink
from geomoe.embeddings.windows import SceneWindows
from geomoe.models.config import NUM_PREFIX_TOKENS
from geomoe.models.pooling import TOKENS
from geomoe.pretrained import PretrainedEncoder

_WINDOWS_OF_PART = 1024  # at least a row of them
_SHIFTS = 2  # how often, in each direction, a pixel lies at each place of a patch


@dataclasses.dataclass(frozen=True)
class TokenGrid:
    """Cells of a map and where its windows start, in cells."""

    cell: int  # pixels a side
    stride: int  # of the windows, in pixels
    height: int  # in cells
    width: int
    tops: np.ndarray
    lefts: np.ndarray
    weights: np.ndarray  # (window, window) of a window's cells

    @property
    def window(self) -> int:
        """Cells a side of a window."""
        return len(self.weights)


def token_grid(size: int, patch: int, height: int, width: int, resolution: str, stride: int | None) -> TokenGrid:
    """Lay windows over a scene of height x width pixels; ValueError for a stride that suits neither.

    Args:
        size, patch: pixels a side of a window and of a patch.
        resolution: "token" or "pixel".
        stride: in pixels.
    """
    cell = patch if resolution == "token" else 1
    if stride is None:
        stride = size // patch // 2 * patch if cell == patch else size // patch // _SHIFTS
        stride = max(stride, cell)
        while cell < patch and math.gcd(stride, patch) > 1:
            stride -= 1
    elif cell == patch and (stride % patch or not 1 <= stride <= size):
        raise ValueError(
            f"stride = {stride}: windows of a map of tokens start at patches, of {patch} pixels, and touch each other"
        )
    elif cell < patch and (math.gcd(stride, patch) > 1 or not 1 <= stride <= max(size // patch, 1)):
        limit = f"at most {max(size // patch, 1)} and without a common factor with the patch's {patch} pixels"
        raise ValueError(f"stride = {stride}: that of a map of pixels is {limit}")
    count, step = size // cell, stride // cell
    rows, columns = -(-height // cell), -(-width // cell)
    weight = _falling(size // patch) if cell == patch else _falling(size) * np.tile(_falling(patch), size // patch)
    starts = _starts(rows, count, step), _starts(columns, count, step)
    return TokenGrid(cell, stride, rows, columns, *starts, np.outer(weight, weight))


def _falling(count: int) -> np.ndarray:
    """Distances of `count` places from the nearer edge: 0.5, 1.5 ... 1.5, 0.5."""
    places = np.arange(count) + 0.5
    return np.minimum(places, count - places).astype(np.float32)


def _starts(cells: int, count: int, step: int) -> np.ndarray:
    """Starts of windows of `count` cells, `step` apart, the last of them at the end."""
    last = max(cells - count, 0)
    return np.array([*range(0, last, step), last])


class Blend:
    """Weighted sums of windows, from the top of a map down."""

    def __init__(self, width: int, dimensions: int) -> None:
        self.top = 0  # row of the map
        self._sums = np.zeros((0, width, dimensions), np.float32)
        self._weights = np.zeros((0, width), np.float32)

    def reach(self, bottom: int) -> None:
        """Make place for the rows above `bottom`."""
        more = bottom - self.top - len(self._sums)
        if more > 0:
            self._sums = np.concatenate([self._sums, np.zeros((more, *self._sums.shape[1:]), np.float32)])
            self._weights = np.concatenate([self._weights, np.zeros((more, self._weights.shape[1]), np.float32)])

    def add(self, row: int, column: int, values: np.ndarray, weights: np.ndarray) -> None:
        """Add the (R, C, D) values of a window at a place of the map, with (R, C) weights; what lies beyond it is left out."""
        rows = slice(row - self.top, row - self.top + len(weights))
        inside = self._weights[rows, column : column + weights.shape[1]].shape
        values, weights = values[: inside[0], : inside[1]], weights[: inside[0], : inside[1]]
        self._sums[rows, column : column + inside[1]] += values * weights[..., None]
        self._weights[rows, column : column + inside[1]] += weights

    def take(self, bottom: int) -> dict[str, np.ndarray]:
        """Take the rows above `bottom`, as one column of vectors (cells, D), NaN where nothing was added, and "embedded"."""
        count = bottom - self.top
        weights = self._weights[:count].reshape(-1)
        with np.errstate(invalid="ignore"):
            vector = self._sums[:count].reshape(len(weights), -1) / weights[:, None]
        self._sums, self._weights, self.top = self._sums[count:].copy(), self._weights[count:].copy(), bottom
        return {"vector": vector, "embedded": weights > 0}


def embed_tokens(
    encoder: PretrainedEncoder, sink: Sink, windows: SceneWindows, resolution: str, stride: int | None
) -> tuple[Parts, dict[str, Any], dict[str, Any]]:
    """Embed a scene to the parts of a map of tokens: parts, facts and grid."""
    sink.check_tokens(resolution)
    info, config = windows.info, encoder.config
    grid = token_grid(windows.size, config.patch_size, info.height, info.width, resolution, stride)
    facts = sink.facts(encoder, windows.spec, {**windows.facts(), "resolution": resolution, "stride": grid.stride}, TOKENS)
    groups = _groups(grid)
    parts = Parts(sink.output, facts, len(groups))
    blend, done = Blend(grid.width, config.width), parts.done
    total = grid.height * grid.width
    sink.progress(int(groups[done][0]) * grid.width if done < len(groups) else total, total)
    if done < len(groups):  # windows above the first row that is missing reach into it
        first = next(i for i, group in enumerate(groups) if group[-1] + grid.window > groups[done][0] or i == done)
        blend.top = int(groups[first][0])
        with windows.reader() as reader:
            for index in range(first, len(groups)):
                _add_rows(encoder, sink, windows, reader, grid, groups[index], blend)
                rows = blend.take(int(groups[index + 1][0]) if index + 1 < len(groups) else grid.height)
                if index >= done:
                    parts.add(index, [rows])
                    sink.progress(blend.top * grid.width, total)
    transform = info.transform @ info.transform.scale(grid.cell)
    return parts, facts, dict(height=grid.height, width=grid.width, transform=transform, crs=info.crs)


def _groups(grid: TokenGrid) -> list[np.ndarray]:
    """The rows of windows of each part: the same whatever the size of a batch, which a run that goes on may change."""
    count = max(_WINDOWS_OF_PART // len(grid.lefts), 1)
    return [grid.tops[start : start + count] for start in range(0, len(grid.tops), count)]


def _add_rows(
    encoder: PretrainedEncoder,
    sink: Sink,
    windows: SceneWindows,
    reader: SceneReader,
    grid: TokenGrid,
    tops: np.ndarray,
    blend: Blend,
) -> None:
    """Embed the windows that start at some rows of the map and add their tokens."""
    columns, images, holds = windows.read(reader, tops * grid.cell, grid.lefts * grid.cell)
    blend.reach(min(int(tops[-1]) + grid.window, grid.height))
    if not len(images):
        return
    embedded = columns["embedded"]
    lat, lon, time = (columns[key][embedded] for key in ("latitude", "longitude", "time"))
    options: dict[str, Any] = dict(spec=windows.spec, valid=holds if windows.mask else None)
    z = encoder.embed(images, lat, lon, time, TOKENS, batch_size=sink.batch_size, **options)[:, NUM_PREFIX_TOKENS:]
    places = np.stack(np.meshgrid(tops, grid.lefts, indexing="ij"), axis=-1).reshape(-1, 2)[embedded]
    for (row, column), tokens, valid in zip(places, z, holds):
        share = valid.reshape(grid.window, grid.cell, grid.window, grid.cell).mean(axis=(1, 3))
        side = math.isqrt(len(tokens))
        values = tokens.reshape(side, side, -1)
        if side < grid.window:
            values = values.repeat(grid.window // side, axis=0).repeat(grid.window // side, axis=1)
        counts = (share >= 0.5) & ~np.isnan(values[..., 0])
        values = np.where(counts[..., None], values, 0)
        blend.add(int(row), int(column), values, grid.weights * counts)

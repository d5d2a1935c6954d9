"""The windows of a scene: which of them count, and what each holds."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data.folder import File, fingerprint
from geomoe.data.preprocess import InputSpec, Part, band_order, check_values, has_data
from geomoe.data.product_files import SceneFiles, paths_of, unsigned
from geomoe.data.scene import NO_QUALITY, SceneError, SceneInfo, SceneReader, check_mask, open_scene
from geomoe.data.windows import read_share
from geomoe.embeddings.vectors import Columns
from geomoe.pretrained import PretrainedEncoder

Scene = str | os.PathLike[str] | Sequence[str] | SceneFiles
_STRIP = 128  # rows that are read at once where the whole scene is looked at


@dataclasses.dataclass(frozen=True)
class SceneWindows:
    """A scene as an encoder takes it, in windows of `size` pixels a side."""

    info: SceneInfo
    bands: tuple[str, ...]  # those that the encoder takes, as far as the scene has them
    spec: InputSpec  # of the windows
    size: int
    min_valid: float  # windows with a smaller share of pixels that hold data are marked
    max_cloud: float  # and such with a larger share of clouds
    mask: tuple[str, ...]  # classes of the quality band that count as without data

    def facts(self) -> dict[str, Any]:
        """Say which windows count and where they are, in plain values."""
        info = self.info
        named = [File(os.path.basename(unsigned(path)), path) for path in paths_of(info.files, info.qa, info.origin)]
        place = dict(scene=info.name, height=info.height, width=info.width, window=self.size, time=str(info.time))
        place |= dict(min_valid=self.min_valid, max_cloud=self.max_cloud, mask=list(self.mask), files_sha256=fingerprint(named))
        return {**place, "transform": list(info.transform)[:6], "crs": info.crs.to_wkt() if info.crs else None}

    def reader(self) -> SceneReader:
        """Open the files."""
        return SceneReader(self.info, self.bands, str(self.spec.unit))

    def strips(self) -> Iterator[Part]:
        """The whole scene, some rows at once, as `geomoe.data.preprocess.measure` takes it."""
        with self.reader() as reader:
            for top in range(0, self.info.height, _STRIP):
                place = top, 0, min(_STRIP, self.info.height - top), self.info.width
                strip = reader.read(*place)
                yield self.spec, strip, has_data(strip, reader.unit) & ~reader.flagged(self.mask, *place)

    def read(self, reader: SceneReader, tops: np.ndarray, lefts: np.ndarray) -> tuple[Columns, np.ndarray, np.ndarray]:
        """Read the windows that start at some rows (R,) and columns (C,) of the scene, row by row.

        Returns:
            Their columns, all but the vector, R * C rows each; the images (E, size, size, bands) of those that count, the
            "embedded", and which of their pixels hold data, (E, size, size) bool.
        """
        size, top, left = self.size, int(tops.min()), int(lefts.min())
        shape = int(tops.max()) - top + size, int(lefts.max()) - left + size
        rows, columns = np.repeat(tops, len(lefts)), np.tile(lefts, len(tops))

        def cut(strip: np.ndarray, which: np.ndarray | slice = slice(None)) -> np.ndarray:
            corners = zip(rows[which] - top, columns[which] - left)
            return np.stack([strip[row : row + size, column : column + size] for row, column in corners])

        strip, clouds = reader.read(top, left, *shape), reader.clouds(top, left, *shape)
        try:
            check_values(strip, reader.unit)
        except ValueError as error:
            raise SceneError(f"{self.info.name}, rows {top} to {top + shape[0]}: {error}") from None
        holds = has_data(strip, reader.unit) & ~reader.flagged(self.mask, top, left, *shape)
        valid = cut(holds).mean(axis=(1, 2))
        cloud = np.full(len(rows), np.nan) if clouds is None else cut(clouds).mean(axis=(1, 2))
        embedded = (valid > 0) & (valid >= self.min_valid) & ~(cloud > self.max_cloud)
        lat, lon = reader.locations(rows + size / 2, columns + size / 2)
        outline = [reader.locations(rows + y, columns + x) for y, x in ((0, 0), (size, 0), (size, size), (0, size), (0, 0))]
        table = {
            "latitude": lat,
            "longitude": lon,
            "time": np.full(len(rows), self.info.time),
            "valid_fraction": valid.astype(np.float32),
            "cloud_fraction": cloud.astype(np.float32),
            "embedded": embedded,
            "footprint": np.stack([np.stack([x, y], axis=-1) for y, x in outline], axis=1),
        }
        if not embedded.any():
            return table, strip[:0], holds[:0]
        return table, cut(strip, embedded), cut(holds, embedded)


def open_windows(
    encoder: PretrainedEncoder,
    scene: Scene,
    spec: InputSpec | None = None,
    min_valid: float = 0.5,
    max_cloud: float = 1.0,
    mask: Sequence[str] = (),
    time: np.datetime64 | str | None = None,
) -> SceneWindows:
    """Open a scene for an encoder; arguments and errors as for `geomoe.embeddings.embed_scene`."""
    min_valid, max_cloud = read_share("min_valid", min_valid), read_share("max_cloud", max_cloud)
    given = spec or InputSpec()
    info = open_scene(scene, given.bands, given.sensor)
    spec = info.spec(given)
    if max_cloud < 1 and info.qa is None:
        raise SceneError(f"{info.name} {NO_QUALITY}, so max_cloud = {max_cloud} means nothing; 1 takes all windows")
    check_mask(info, mask)
    if mask:
        spec.check_masked(f"mask = {', '.join(mask)}")
    if time is not None:
        info = dataclasses.replace(
            info, time=metadata.parse_time(time) if isinstance(time, str) else metadata.read_times([time])[0]
        )
    bands = [band for band in encoder.bands if band in info.files]
    # Of Landsat 4 to 7 by title, which is the same whatever a sensor's numbers are.
    channels = [landsat.band_title(band) for band in bands] if landsat.lacks_coastal(info.sensor) else bands
    spec = dataclasses.replace(spec, sensor=info.sensor, bands=tuple(channels), resize_mode="exact")
    band_order(spec.channels(bands), encoder.bands, spec.fill_missing, info.sensor)  # raises where a band is missing
    windows = SceneWindows(info, tuple(bands), spec, encoder.config.img_size, min_valid, max_cloud, tuple(mask))
    try:
        return dataclasses.replace(windows, spec=spec.measured(windows.strips(), encoder.bands, info.name))
    except ValueError as error:
        raise SceneError(str(error)) from None

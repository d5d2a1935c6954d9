"""Whole scenes, cut into patches: unlabelled data for pretraining."""

import functools
import os
from collections.abc import Sequence
from typing import Any

from geomoe import landsat
from geomoe.data import records
from geomoe.data.builders.base import LandsatBuilder
from geomoe.data.builders.listing import Entry, Listing, Reader, Skipped
from geomoe.data.geotiff import PatchError
from geomoe.data.preprocess import InputSpec, to_records
from geomoe.data.product_files import SceneError, holds_band_files
from geomoe.data.scene import SceneReader, open_scene
from geomoe.data.tensorflow_setup import tfds


def _open(path: str, given: InputSpec) -> tuple[SceneReader, InputSpec]:
    """A reader of the scene's bands, and what its numbers are; opened once for many windows, anew when a file has changed."""
    files = [entry.path for entry in os.scandir(path)] if os.path.isdir(path) else [path]
    return _open_as_of(path, given, max(os.stat(file).st_mtime_ns for file in files))


@functools.lru_cache(maxsize=4)
def _open_as_of(path: str, given: InputSpec, modified: int) -> tuple[SceneReader, InputSpec]:
    del modified  # a part of the key alone
    info = open_scene(path, given.bands, given.sensor)
    spec = info.spec(given)
    bands = [band for band in landsat.BANDS if band in info.files]
    if missing := [band for band in landsat.BANDS[1:] if band not in info.files]:
        raise SceneError(f"{path}: the scene lacks {', '.join(missing)}, which a patch needs")
    return SceneReader(info, bands, str(spec.unit)), spec


def read_entry(entry: Entry, keep_nodata: bool) -> dict[str, Any]:
    """Read one window of a scene; `entry.details` is (row, column, side in pixels, `InputSpec`, largest share of clouds)."""
    row, column, side, given, max_cloud = entry.details
    try:
        reader, spec = _open(entry.path, given)
        values = reader.read(row, column, side, side)
        clouds = reader.clouds(row, column, side, side)
    except SceneError as error:
        raise PatchError("unreadable image", entry.path, str(error)) from None
    window = f"the window at row {row}, column {column}"
    if clouds is not None and clouds.mean() > max_cloud:
        raise PatchError("clouds", entry.path, f"{clouds.mean():.0%} of {window} is cloud")
    info = reader.info
    try:
        image = to_records(values, spec, reader.bands)
    except ValueError as error:
        raise PatchError("wrong values", entry.path, f"{window}: {error}") from None
    if not keep_nodata and not image.any():
        raise PatchError("all nodata", entry.path, f"every pixel of {window} is without data")
    if landsat.BANDS[0] not in reader.bands:
        image = landsat.with_coastal(image)
    latitude, longitude = reader.locations(row + side / 2, column + side / 2)
    return records.record(entry.id, image, float(latitude), float(longitude), info.time, [])


class LandsatScene(LandsatBuilder):
    """The patches of one scene, or of every scene in a folder.

    A scene is what `geomoe.data.scene.open_scene` takes: a GeoTIFF with several bands, or a folder with one file a band. In a
    folder of scenes those that cannot be opened are counted as skipped. What is not Collection 2 level 2 is brought to its
    digital numbers (`geomoe.data.preprocess`).

    Args:
        unit, sensor, bands, sun_elevation, uint8_range: of the scenes, as for `geomoe.data.preprocess.InputSpec`; None is what
            each says of itself. `bands` is for scenes of one file each.
        side: of a patch, in pixels; more than the model's image side leaves room for random crops.
        stride: pixels from one patch to the next; None is `side`, so that they lie side by side.
        rows: (first, last) row of a scene that patches are cut between, the last excluded, to hold a part of it out; None is
            all.
        max_cloud: largest share of clouds by the quality band, where there is one.
        config: names the dataset, so that several can live in one data_dir.
    """

    name = "landsat_scene"

    def __init__(
        self,
        *,
        unit: str | None = None,
        sensor: str | None = None,
        bands: Sequence[str] | None = None,
        sun_elevation: float | None = None,
        uint8_range: tuple[float, float] = (0.0, 1.0),
        side: int = 48,
        stride: int | None = None,
        rows: tuple[int, int] | None = None,
        max_cloud: float = 0.5,
        config: str | None = None,
        **kwargs: Any,
    ) -> None:
        names, (low, high) = bands and tuple(bands), uint8_range  # plain values, which a cache can tell apart
        self.spec = InputSpec(unit, names, sensor=sensor, sun_elevation=sun_elevation, uint8_range=(low, high))
        if side < 1:
            raise ValueError(f"side = {side} must be at least 1")
        self.stride = side if stride is None else stride
        if self.stride < 1:
            raise ValueError(f"stride = {stride} must be at least 1")
        if rows is not None and not 0 <= rows[0] < rows[1]:
            raise ValueError(f"rows = {tuple(rows)} must be (first, last), 0 <= first < last")
        self.rows = rows
        if not 0 <= max_cloud <= 1:
            raise ValueError(f"max_cloud = {max_cloud} must be in [0, 1]")
        self.side, self.max_cloud = side, max_cloud
        super().__init__(config=config and tfds.core.BuilderConfig(name=config, description="patches of scenes"), **kwargs)

    def facts(self) -> dict[str, Any]:
        numbers = f", whose numbers were {self.spec.unit}" if self.spec.unit else ""
        description = f"Patches of the scenes in {self.source}{numbers}."
        return dict(class_names=[], task="none", description=description)

    def reader(self) -> Reader:
        return functools.partial(read_entry, keep_nodata=self.keep_nodata)

    def _require_source(self) -> None:
        if not os.path.exists(self.source):
            raise FileNotFoundError(f"there is no scene {self.source}; pass a GeoTIFF, a scene's folder or a folder of scenes")

    def list_source(self) -> Listing:
        entries, skipped, scenes = [], [], self._scenes()
        for path in scenes:
            try:
                info = _open(path, self.spec)[0].info
            except (SceneError, OSError) as error:
                if scenes == [self.source]:
                    raise
                skipped.append(Skipped("unusable scene", os.path.basename(path), path, str(error)))
                continue
            first, last = (0, info.height) if self.rows is None else (self.rows[0], min(self.rows[1], info.height))
            for row in range(first, last - self.side + 1, self.stride):
                for column in range(0, info.width - self.side + 1, self.stride):
                    details = (row, column, self.side, self.spec, self.max_cloud)
                    entries.append(Entry(f"{info.name}_{row}_{column}", path, details))
        return Listing({"train": entries}, skipped).drop_duplicates()

    def _scenes(self) -> list[str]:
        if os.path.isfile(self.source) or holds_band_files(self.source):
            return [self.source]
        below = sorted(os.path.join(self.source, name) for name in os.listdir(self.source))
        return [p for p in below if p.lower().endswith((".tif", ".tiff")) or os.path.isdir(p) and holds_band_files(p)]

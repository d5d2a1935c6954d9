"""A folder of GeoTIFF patches, with or without labels: the user's own data."""

import csv
import functools
import glob
import os
import re
from typing import Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data import geotiff, records
from geomoe.data.builders.base import LandsatBuilder
from geomoe.data.builders.listing import Entry, Listing, Reader, Skipped
from geomoe.data.preprocess import InputSpec, to_records
from geomoe.data.tensorflow_setup import tfds

Row = dict[str, str]  # a line of a labels table
_COLUMNS = ("id", "label", "labels", "latitude", "longitude", "time", "split")
_SPLIT = re.compile(r"(?!all$)[A-Za-z]\w*", re.ASCII)  # what TFDS takes as the name of a split


def read_table(path: str | os.PathLike[str]) -> dict[str, Row]:
    """Read a table of labels (see `LandsatFolder`) to its rows by id, the ending .tif taken off; ValueError if it is none."""
    name = os.fspath(path)
    rows: dict[str, Row] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            if "id" not in header or set(header) - set(_COLUMNS) or len(set(header)) < len(header):
                raise ValueError(f"{name}: columns are {header}; needed: id; allowed: {', '.join(_COLUMNS)}, each once")
            for line in reader:
                where = f"{name}, line {reader.line_num}"
                if any(line.pop(None, ())):
                    raise ValueError(f"{where}: more fields than the {len(header)} columns {', '.join(header)}")
                row = {column: (text or "").strip() for column, text in line.items()}
                key = re.sub(r"\.tiff?$", "", row["id"], flags=re.IGNORECASE)
                if not key:
                    raise ValueError(f"{where}: the id is empty")
                if any("\n" in text or "\r" in text for text in row.values()):
                    raise ValueError(f"{where}: a field of {key!r} holds a line break")
                if row.get("split") and not _SPLIT.fullmatch(row["split"]):
                    raise ValueError(f"{where}: {row['split']!r} is no name of a split, as 'train' is")
                if key in rows and rows[key] != row:
                    raise ValueError(f"{where}: the id {row['id']!r} stands twice, with other values")
                rows[key] = row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is no CSV table: {error}") from None
    return rows


def _labels(row: Row) -> list[str]:
    text = row.get("labels") or row.get("label") or ""
    return [name.strip() for name in text.split(";") if name.strip()]


def _location(row: Row, table: str, patch_id: str) -> tuple[float, float] | None:
    """Latitude and longitude of a row, None where it lacks one."""
    try:
        latitude, longitude = (float(row.get(column) or "nan") for column in ("latitude", "longitude"))
    except ValueError as error:
        raise geotiff.PatchError("bad coordinates", table, f"row of {patch_id}: {error}") from None
    if np.isnan(latitude) or np.isnan(longitude):
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 360):
        raise geotiff.PatchError("bad coordinates", table, f"row of {patch_id}: {latitude}, {longitude} are not degrees")
    return latitude, longitude


def read_entry(entry: Entry, class_names: tuple[str, ...], keep_nodata: bool) -> dict[str, Any]:
    """Read one patch; `entry.details` is its row of the labels table (or an empty dict), the table's path and the sensor."""
    row, table, sensor = (entry.details[key] for key in ("row", "table", "sensor"))
    location = _location(row, table, entry.id)
    patch = geotiff.read_patch(entry.path, sensor=sensor, need_crs=location is None, keep_nodata=keep_nodata)
    explicit = row.get("time", "")
    try:
        time = metadata.acquisition_time(explicit=explicit, name=entry.id, date_tag=patch.date_tag, strict=True)
    except ValueError as error:
        raise geotiff.PatchError("bad time stamp", table if explicit else entry.path, f"{entry.id}: {error}") from None
    latitude, longitude = location or (patch.latitude, patch.longitude)
    image = to_records(patch.image, InputSpec())
    image = landsat.with_coastal(image) if landsat.lacks_coastal(patch.sensor) else image
    labels = sorted({class_names.index(name) for name in _labels(row)})
    return records.record(entry.id, image, latitude, longitude, time, labels)


class LandsatFolder(LandsatBuilder):
    """A folder of GeoTIFFs (searched with its subfolders), each a patch of the 7 bands SR_B1 to SR_B7 in uint16.

    Those of Landsat 4, 5 and 7 (by the file's name, or by `sensor` for all) have 6 bands, SR_B1 to SR_B5 and SR_B7, which
    become the model's seven (`geomoe.landsat.with_coastal`). Bands go by the files' descriptions, where they name any.

    `labels` is an optional CSV with a header: `id` (file name, with or without ending, or path below the folder), and any of
    `label` (one class) or `labels` (several, joined by ";"), `latitude` and `longitude` (degrees; they stand in for a CRS),
    `time` (ISO 8601, UTC) and `split`. Without it, every patch is in "train". A time that the table does not have is that of a
    stamp in the patch's name, else of TIFFTAG_DATETIME, else unknown. `config` names the dataset, so that several folders can
    live in one data_dir.
    """

    name = "landsat_folder"

    def __init__(
        self,
        *,
        labels: str | os.PathLike[str] | None = None,
        sensor: str | None = None,
        config: str | None = None,
        **kwargs: Any,
    ) -> None:
        if sensor is not None:
            landsat.check_sensor(sensor)
        self.sensor = sensor
        self.labels = None if labels is None else os.fspath(labels)
        super().__init__(config=config and tfds.core.BuilderConfig(name=config, description="patches of a folder"), **kwargs)

    @functools.cached_property
    def _table(self) -> dict[str, Row]:
        """The labels table by id, empty if there is none."""
        return {} if self.labels is None else read_table(self.labels)

    def facts(self) -> dict[str, Any]:
        rows = self._table.values()
        task = "none"
        if any(_labels(row) for row in rows):
            task = "multilabel" if any("labels" in row for row in rows) else "multiclass"
        class_names = sorted({name for row in rows for name in _labels(row)})
        return dict(class_names=class_names, task=task, description=f"Landsat patches of the folder {self.source}.")

    def reader(self) -> Reader:
        names = tuple(self.info.features["labels"].feature.names)
        return functools.partial(read_entry, class_names=names, keep_nodata=self.keep_nodata)

    def list_source(self) -> Listing:
        table = self._table
        listing = Listing({})
        ends = (".tif", ".tiff", ".TIF", ".TIFF")
        files = sorted(p for p in glob.glob(os.path.join(self.source, "**", "*"), recursive=True) if p.endswith(ends))
        used = set()
        for path in files:
            relative = os.path.splitext(os.path.relpath(path, self.source))[0]
            stem = os.path.basename(relative)
            key = relative if relative in table else stem
            used.add(key)
            if table and key not in table:
                listing.skipped.append(Skipped("missing label", stem, path, f"no row in {self.labels}"))
                continue
            row = table.get(key, {})
            details = {"row": row, "table": self.labels or "", "sensor": self.sensor}
            listing.splits.setdefault(row.get("split") or "train", []).append(Entry(stem, path, details))
        for key in sorted(table.keys() - used):
            message = f"{self.labels} has a row for it, but there is no such GeoTIFF"
            listing.skipped.append(Skipped("missing image", key, os.path.join(self.source, key), message))
        return listing.drop_duplicates()

"""Any folder of GeoTIFF patches, with or without a table of labels: the user's own data."""

from __future__ import annotations

import csv
import functools
import glob
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from geomoe import landsat, metadata
from geomoe.data import geotiff
from geomoe.data.builders.base import Entry, LandsatBuilder, Listing, Skipped, time_text

_COLUMNS = ("id", "label", "labels", "latitude", "longitude", "time", "split")


def _number(row: dict[str, str], column: str) -> float:
    text = (row.get(column) or "").strip()
    return float(text) if text else float("nan")


def read_entry(entry: Entry, class_names: tuple[str, ...], keep_nodata: bool) -> dict[str, Any]:
    """One patch; `entry.details` is its row of the labels table (or an empty dict), the table's path and the sensor."""
    row, table, sensor = (entry.details[key] for key in ("row", "table", "sensor"))
    try:
        latitude, longitude = _number(row, "latitude"), _number(row, "longitude")
    except ValueError as error:
        raise geotiff.PatchError("bad place", table, f"row of {entry.id}: {error}") from None
    placed = np.isfinite(latitude) and np.isfinite(longitude)
    if placed and not (abs(latitude) <= 90 and abs(longitude) <= 360):
        raise geotiff.PatchError("bad place", table, f"row of {entry.id}: {latitude}, {longitude} are not degrees")
    names = landsat.sensor_bands(sensor)
    patch = geotiff.read_patch(entry.path, num_bands=len(names), need_crs=not placed, keep_nodata=keep_nodata)
    text = (row.get("time") or "").strip()
    try:
        if text:
            time = np.datetime64(text.removesuffix("Z").replace(" ", "T"), "s")
        elif patch.date_tag:
            time = np.datetime64(patch.date_tag.strip("\x00 ").replace(":", "-", 2).replace(" ", "T"), "s")
        else:
            time = metadata.time_from_name(entry.id)
    except ValueError:
        found = text or patch.date_tag or entry.id
        raise geotiff.PatchError("bad time stamp", table if text else entry.path, f"{found!r} of {entry.id}") from None
    return {
        "id": entry.id,
        "image": landsat.with_coastal(patch.image) if landsat.lacks_coastal(sensor) else patch.image,
        "latitude": latitude if placed else patch.latitude,
        "longitude": longitude if placed else patch.longitude,
        "time": time_text(time),
        "labels": sorted({class_names.index(name) for name in _labels(row)}),
    }


def _labels(row: dict[str, str]) -> list[str]:
    text = row.get("labels") or row.get("label") or ""
    return [name.strip() for name in text.split(";") if name.strip()]


class LandsatFolder(LandsatBuilder):
    """A folder of GeoTIFFs (searched with its subfolders), each a patch of the 7 bands SR_B1 to SR_B7 in uint16.

    With `sensor` "landsat4", "landsat5" or "landsat7" of their 6 bands SR_B1 to SR_B5 and SR_B7, which become the model's seven
    (`geomoe.landsat.with_coastal`).

    `labels` is an optional CSV with a header: `id` (file name, with or without ending, or path below the folder), and any of
    `label` (one class) or `labels` (several, joined by ";"), `latitude` and `longitude` (degrees; they stand in for a CRS),
    `time` (ISO 8601, UTC) and `split`. Without it, every patch is in "train", its time is that of TIFFTAG_DATETIME or of a date
    in its name, or unknown. `config` names the dataset, so that several folders can live in one data_dir.
    """

    name = "landsat_folder"

    def __init__(
        self,
        *,
        labels: str | os.PathLike | None = None,
        sensor: str = "landsat8",
        config: str | None = None,
        **kwargs: Any,
    ):
        landsat.check_sensor(sensor)
        self.sensor = sensor
        self.labels = None if labels is None else os.fspath(labels)
        self._rows: dict[str, dict[str, str]] | None = None
        if config is not None:
            config = tfds.core.BuilderConfig(name=config, description="patches of a folder")
        super().__init__(config=config, **kwargs)

    def facts(self) -> dict[str, Any]:
        rows = self._table().values()
        task = "none"
        if any(_labels(row) for row in rows):
            task = "multilabel" if any("labels" in row for row in rows) else "multiclass"
        return dict(
            class_names=sorted({name for row in rows for name in _labels(row)}),
            task=task,
            description=f"Landsat patches of the folder {self.source}.",
        )

    def reader(self):
        names = tuple(self.info.features["labels"].feature.names)
        return functools.partial(read_entry, class_names=names, keep_nodata=self.keep_nodata)

    def list_source(self) -> Listing:
        table = self._table()
        listing = Listing({})
        files = sorted(
            path
            for end in ("tif", "tiff", "TIF", "TIFF")
            for path in glob.glob(os.path.join(self.source, "**", f"*.{end}"), recursive=True)
        )
        used = set()
        for path in files:
            relative = os.path.splitext(os.path.relpath(path, self.source))[0]
            stem = os.path.basename(relative)
            key = relative if relative in table else stem
            row = table.get(key, {})
            used.add(key)
            if table and not row:
                listing.skipped.append(Skipped("missing label", stem, path, f"no row in {self.labels}"))
                continue
            split = (row.get("split") or "train").strip()
            details = {"row": row, "table": self.labels or "", "sensor": self.sensor}
            listing.splits.setdefault(split, []).append(Entry(stem, path, details))
        for key in table.keys() - used:
            message = f"{self.labels} has a row for it, but there is no such GeoTIFF"
            listing.skipped.append(Skipped("missing image", key, os.path.join(self.source, key), message))
        return listing.drop_duplicates()

    def _table(self) -> dict[str, dict[str, str]]:
        """The labels table by id, empty if there is none."""
        if self._rows is None:
            self._rows = {} if self.labels is None else self._read_table(self.labels)
        return self._rows

    def _read_table(self, path: str) -> dict[str, dict[str, str]]:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            unknown = [name for name in header if name not in _COLUMNS]
            if "id" not in header or unknown:
                raise ValueError(f"{path}: columns are {header}; needed: id; allowed: {', '.join(_COLUMNS)}")
            rows: dict[str, dict[str, str]] = {}
            for row in reader:
                key = os.path.splitext(row["id"])[0] if row["id"].lower().endswith((".tif", ".tiff")) else row["id"]
                if key in rows and rows[key] != row:
                    raise ValueError(f"{path}, line {reader.line_num}: the id {row['id']!r} stands twice, with other values")
                rows[key] = row
        return rows

"""A folder of GeoTIFF patches, with or without labels: the user's own data."""

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data import geotiff, records
from geomoe.data.builders.base import LandsatBuilder
from geomoe.data.builders.listing import Entry, Listing, Reader, Skipped, check_split
from geomoe.data.folder import File, Names, find_geotiffs, plain_name
from geomoe.data.preprocess import InputSpec, band_order, to_records
from geomoe.data.tables import Row, is_missing, read_table
from geomoe.data.tensorflow_setup import tfds

_COLUMNS = ("id", "label", "labels", "latitude", "longitude", "time", "split")
_SPLIT = "train"  # of patches of which the table says none


def read_labels(path: str | os.PathLike[str]) -> list[Row]:
    """Read a table of labels (see `LandsatFolder`); ValueError, naming the file and the line, if it is none."""
    rows, splits = read_table(path, _COLUMNS), dict[str, Row]()
    if not rows:
        raise ValueError(f"{os.fspath(path)}: there is a header and no row; without a table every patch is unlabelled")
    for where, row in rows:
        if "label" in row and "labels" in row:
            raise ValueError(f"{os.fspath(path)}: columns label (one class) and labels (several, joined by ';'): keep one")
        if split := row.get("split"):
            try:
                check_split(split)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        name, shown = (split, f"split {split!r}") if split else (_SPLIT, f"no split, so {_SPLIT!r}, which")
        first = splits.setdefault(name.lower(), Row(where, {"split": name}))
        if (before := first.fields["split"]) != name:
            differs = f"differs from {before!r} of {first.where} in upper and lower case alone"
            raise ValueError(f"{where}: {shown} {differs}; write them alike")
    return rows


def _labels(row: dict[str, str]) -> list[str]:
    names = row["labels"].split(";") if "labels" in row else [row.get("label", "")]
    if "labels" in row and re.fullmatch(r"\[.*\]|\{.*\}|\(.*,.*\)", row["labels"].strip()):
        raise ValueError(f"labels = {row['labels']!r} is a list as Python writes it; join the names by ';', as in Forest;River")
    return [name.strip() for name in names if not is_missing(name)]


def _location(row: dict[str, str], where: str) -> tuple[float, float] | None:
    """Latitude and longitude of a row, None where it lacks one."""
    try:
        latitude, longitude = (float(row.get(column) or "nan") for column in ("latitude", "longitude"))
    except ValueError as error:
        raise geotiff.PatchError("bad coordinates", where, str(error)) from None
    if np.isnan(latitude) or np.isnan(longitude):
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 360):
        raise geotiff.PatchError("bad coordinates", where, f"{latitude}, {longitude} are not degrees")
    return latitude, longitude


def _to_record(patch: geotiff.Patch, spec: InputSpec, path: str) -> np.ndarray:
    """The patch's pixels as records hold them, (H, W, 7) uint16."""
    try:
        order = band_order(patch.bands, landsat.BANDS, False, patch.sensor if spec.bands else "landsat8")
    except ValueError as error:
        raise geotiff.PatchError("wrong bands", path, str(error)) from None
    there = [i for i in order if i is not None]
    bands = [band for band, i in zip(landsat.BANDS, order) if i is not None]
    try:
        image = to_records(patch.image[..., there], spec.known(sensor=patch.sensor), bands)
    except ValueError as error:
        raise geotiff.PatchError("wrong values", path, str(error)) from None
    return image if landsat.BANDS[0] in bands else landsat.with_coastal(image)


def read_entry(entry: Entry, class_names: tuple[str, ...], keep_nodata: bool) -> dict[str, Any]:
    """Read one patch; `entry.details` is its row of the labels table (or an empty dict), where that stands and `InputSpec`."""
    row, where, spec = (entry.details[key] for key in ("row", "where", "spec"))
    location = _location(row, where)
    patch = geotiff.read_patch(entry.path, spec, need_crs=location is None, keep_nodata=keep_nodata)
    explicit = row.get("time", "")
    try:
        name = os.path.basename(entry.id)
        time = metadata.acquisition_time(explicit=explicit, name=name, date_tag=patch.date_tag, strict=True)
    except ValueError as error:
        raise geotiff.PatchError("bad time stamp", where if explicit else entry.path, f"{entry.id}: {error}") from None
    latitude, longitude = location or (patch.latitude, patch.longitude)
    image = _to_record(patch, spec, entry.path)
    labels = sorted({class_names.index(name) for name in _labels(row)})
    return records.record(entry.id, image, latitude, longitude, time, labels)


class LandsatFolder(LandsatBuilder):
    """A folder of GeoTIFFs (searched with its subfolders), each a patch of the 7 bands SR_B1 to SR_B7.

    Those of Landsat 4, 5 and 7 (by the file's name, or by `sensor` for all) have 6 bands, SR_B1 to SR_B5 and SR_B7, which
    become the model's seven (`geomoe.landsat.with_coastal`). Bands go by `bands`, or by the files' descriptions where they name
    any. Numbers are Collection 2's, or of `unit`, and are brought to Collection 2's.

    A patch's id is its path below the folder without the ending.

    `labels` is an optional CSV with a header: `id` (the path below the folder, or as many of its last parts as tell it from
    others, with or without the ending), and any of `label` (one class) or `labels` (several, joined by ";"), `latitude` and
    `longitude` (degrees; they stand in for a CRS), `time` (ISO 8601, UTC) and `split`. A patch without a row, or in a table of
    labels without one, is counted as skipped; one without a split is in "train", as is every patch without a table. A table
    without rows is an error, and so are splits that differ in upper and lower case alone. A time that the table does not have
    is that of a stamp in the patch's name, else of TIFFTAG_DATETIME, else unknown. `config` names the dataset, so that several
    folders can live in one data_dir.

    `unit`, `sensor`, `bands`, `sun_elevation` and `uint8_range` say what all the images are, as for
    `geomoe.data.preprocess.InputSpec`.
    """

    name = "landsat_folder"

    classes_by_source = True

    def __init__(
        self,
        *,
        labels: str | os.PathLike[str] | None = None,
        unit: str | None = None,
        sensor: str | None = None,
        bands: Sequence[str] | None = None,
        sun_elevation: float | None = None,
        uint8_range: tuple[float, float] = (0.0, 1.0),
        config: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.spec = InputSpec(unit, bands, sensor=sensor, sun_elevation=sun_elevation, uint8_range=uint8_range)
        self.labels = None if labels is None else os.fspath(labels)
        super().__init__(config=config and tfds.core.BuilderConfig(name=config, description="patches of a folder"), **kwargs)

    @functools.cached_property
    def _table(self) -> list[Row]:
        """The labels table, empty if there is none."""
        return [] if self.labels is None else read_labels(self.labels)

    def facts(self) -> dict[str, Any]:
        rows = [row.fields for row in self._table]
        task = "none"
        if any(_labels(row) for row in rows):
            task = "multilabel" if any("labels" in row for row in rows) else "multiclass"
        class_names = sorted({name for row in rows for name in _labels(row)})
        return dict(class_names=class_names, task=task, description=f"Landsat patches of the folder {self.source}.")

    def reader(self) -> Reader:
        names = tuple(self.info.features["labels"].feature.names)
        return functools.partial(read_entry, class_names=names, keep_nodata=self.keep_nodata)

    def list_source(self) -> Listing:
        files, listing = find_geotiffs(self.source), Listing({})
        rows = self._rows_by_id(files, listing)
        if self._table and files and not rows:
            ids = f"its ids are as {self._table[0].fields['id']!r}, the files as {files[0].id!r}"
            raise ValueError(f"none of the {len(files)} GeoTIFFs of {self.source} has a row in {self.labels}: {ids}")
        labelled = any(_labels(row.fields) for row in self._table)
        for file in files:
            where, row = rows.get(file.id, Row("", {}))
            if self._table and not row:
                listing.skipped.append(Skipped("missing label", file.id, file.path, f"no row in {self.labels}"))
            elif labelled and not _labels(row):
                listing.skipped.append(Skipped("missing label", file.id, file.path, f"{where}: no label"))
            else:
                details = {"row": row, "where": where, "spec": self.spec}
                listing.splits.setdefault(row.get("split") or _SPLIT, []).append(Entry(file.id, file.path, details))
        return listing

    def _rows_by_id(self, files: list[File], listing: Listing) -> dict[str, Row]:
        """Each file's row of the table; rows without a file are counted as skipped."""
        rows, names = dict[str, Row](), Names(self.source, files)
        for where, row in self._table:
            try:
                file = names.find(row["id"])
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if file is None:
                path = os.path.join(self.source, plain_name(row["id"]))
                listing.skipped.append(Skipped("missing image", row["id"], path, f"{where}: there is no such GeoTIFF"))
            elif (before := rows.get(file.id)) and before.fields | {"id": ""} != row | {"id": ""}:
                raise ValueError(f"{where}: {file.id!r} has other values here than in {before.where}")
            else:
                rows[file.id] = Row(where, row)
        return rows

"""BigEarthNet-L: 519,284 Landsat 8 patches of BigEarthNet's places and dates, with CORINE land-cover labels."""

import functools
import json
import os
import re
from typing import Any

import numpy as np

from geomoe import landsat, metadata
from geomoe.data import geotiff, records
from geomoe.data.builders.base import LandsatBuilder
from geomoe.data.builders.listing import Entry, Listing, Reader, read_splits
from geomoe.data.folder import Names, find_geotiffs, plain_name
from geomoe.data.preprocess import InputSpec, to_records
from geomoe.data.tables import read_lines
from geomoe.data.tensorflow_setup import tfds

_NOMENCLATURES = {"19": landsat.BIGEARTHNET_CLASSES_19, "43": landsat.BIGEARTHNET_CLASSES_43}


def _read_labels(path: str, patch_id: str) -> tuple[list[str], str]:
    """The class names and the acquisition date (or "") of a label file."""
    try:
        with open(path) as file:
            content = json.load(file)
        names = content["labels"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("'labels' is not a list of class names")
    except FileNotFoundError:
        raise geotiff.PatchError("missing label", path, f"the patch {patch_id} has no label file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise geotiff.PatchError("unreadable label", path, f"{type(error).__name__}: {error}") from None
    if unknown := [name for name in names if name not in landsat.BIGEARTHNET_CLASSES_43]:
        raise geotiff.PatchError("unknown class", path, f"{unknown[0]!r} is not in the 43-class nomenclature")
    date = content.get("acquisition_date")
    return names, date if isinstance(date, str) else ""


def read_entry(entry: Entry, class_names: tuple[str, ...], keep_nodata: bool) -> dict[str, Any]:
    """Read one patch with its labels; `entry.details` is the path of its label file."""
    patch = geotiff.read_patch(entry.path, InputSpec(sensor="landsat8"), keep_nodata=keep_nodata)
    names, date = _read_labels(entry.details, entry.id)
    try:
        time = metadata.acquisition_time(explicit=date, name=entry.id)
    except ValueError as error:
        raise geotiff.PatchError("bad time stamp", entry.details, f"acquisition_date: {error}") from None
    if np.isnat(time):
        raise geotiff.PatchError("bad time stamp", entry.details, "neither the label file nor the name of the patch has a date")
    if class_names == landsat.BIGEARTHNET_CLASSES_19:
        names = [landsat.CORINE_TO_19[name] for name in names if name in landsat.CORINE_TO_19]
    labels = sorted({class_names.index(name) for name in names})
    return records.record(entry.id, to_records(patch.image, InputSpec()), patch.latitude, patch.longitude, time, labels)


class BigearthnetLandsat(LandsatBuilder):
    """BigEarthNet-L (config "19", the default, or "43").

    Source layout: `images/<id>.tif` (7 bands, uint16), `labels/<id>_labels_metadata.json` and one CSV a split,
    `bigearthnet-{train,val,test}.csv`, with an id as the first field of a line (a first line that names no patch is a header).
    A folder without these CSVs but with others has them all in one split "train"; without any CSV, all images are "train".
    """

    name = "bigearthnet_landsat"
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=n, description=f"{n}-class nomenclature") for n in _NOMENCLATURES]

    def facts(self) -> dict[str, Any]:
        return dict(
            class_names=_NOMENCLATURES[self.builder_config.name],
            task="multilabel",
            description="BigEarthNet-Landsat: Landsat 8 Collection 2 surface reflectance patches with CORINE labels.",
            homepage="https://github.com/isaaccorley/landsat-bench",
        )

    def reader(self) -> Reader:
        class_names = _NOMENCLATURES[self.builder_config.name]
        return functools.partial(read_entry, class_names=class_names, keep_nodata=self.keep_nodata)

    def list_source(self) -> Listing:
        images = os.path.join(self.source, "images")
        if not os.path.isdir(images):
            layout = "images/<id>.tif, labels/, bigearthnet-train.csv ..."
            raise FileNotFoundError(f"{self.source} has no folder images/; expected {layout}")
        files = find_geotiffs(images)
        names = Names(images, files)
        if lines := read_splits(self.source, "bigearthnet-{}.csv"):
            splits = {split: self._entries(names, stated) for split, stated in lines.items()}
        elif others := sorted(name for name in os.listdir(self.source) if name.lower().endswith(".csv")):
            stated = [read_lines(os.path.join(self.source, name)) for name in others]
            splits = {"train": [entry for lines_of_one in stated for entry in self._entries(names, lines_of_one)]}
        else:
            splits = {"train": [self._entry(file.id, file.path) for file in files]}
        return Listing(splits).drop_duplicates()

    def _entries(self, names: Names, lines: list[tuple[str, str]]) -> list[Entry]:
        """The patches that the first fields of lines name; a first line that names none, by its form or a file, is a header."""
        entries = []
        for i, (where, line) in enumerate(lines):
            text = line.split(",")[0].strip().strip('"')
            if not text:
                continue
            try:
                name, file = plain_name(text), names.find(text)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if i or file or re.search(r"\d.*_", name):
                entries.append(self._entry(name, file.path if file else os.path.join(self.source, "images", f"{name}.tif")))
        return entries

    def _entry(self, patch_id: str, image: str) -> Entry:
        return Entry(patch_id, image, os.path.join(self.source, "labels", f"{patch_id}_labels_metadata.json"))

"""BigEarthNet-L: 519,284 Landsat 8 patches of BigEarthNet's places and dates, with CORINE land-cover labels."""

from __future__ import annotations

import functools
import glob
import json
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from geomoe import landsat, metadata
from geomoe.data import geotiff
from geomoe.data.builders.base import Entry, LandsatBuilder, Listing, time_text

_SPLITS = ("train", "val", "test")


def _read_time(patch_id: str, label_path: str, acquisition: Any) -> np.datetime64:
    """The acquisition time of the label file, or else that of the patch's name."""
    if isinstance(acquisition, str):
        try:
            return np.datetime64(acquisition.strip().replace(" ", "T"), "s")
        except ValueError:
            raise geotiff.PatchError("bad time stamp", label_path, f"acquisition_date is {acquisition!r}") from None
    try:
        time = metadata.time_from_name(patch_id)
    except ValueError:
        time = None
    if time is None:
        raise geotiff.PatchError("bad time stamp", label_path, "neither the label file nor the name of the patch has a date")
    return time


def read_entry(entry: Entry, class_names: tuple[str, ...], keep_nodata: bool) -> dict[str, Any]:
    """One patch with its labels; `entry.details` is the path of its label file."""
    label_path = entry.details
    patch = geotiff.read_patch(entry.path, keep_nodata=keep_nodata)
    try:
        with open(label_path) as file:
            meta = json.load(file)
        names = meta["labels"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("'labels' is not a list of class names")
    except FileNotFoundError:
        raise geotiff.PatchError("missing label", label_path, f"the patch {entry.id} has no label file") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise geotiff.PatchError("unreadable label", label_path, f"{type(error).__name__}: {error}") from None
    unknown = [name for name in names if name not in landsat.BIGEARTHNET_CLASSES_43]
    if unknown:
        raise geotiff.PatchError("unknown class", label_path, f"{unknown[0]!r} is not in the 43-class nomenclature")
    if len(class_names) == len(landsat.BIGEARTHNET_CLASSES_19):
        names = {landsat.CORINE_TO_19[name] for name in names if name in landsat.CORINE_TO_19}
    return {
        "id": entry.id,
        "image": patch.image,
        "latitude": patch.latitude,
        "longitude": patch.longitude,
        "time": time_text(_read_time(entry.id, label_path, meta.get("acquisition_date"))),
        "labels": sorted({class_names.index(name) for name in names}),
    }


class BigEarthNetConfig(tfds.core.BuilderConfig):
    """Names the nomenclature: 19 or 43 classes."""

    def __init__(self, class_names: tuple[str, ...], **kwargs: Any):
        super().__init__(**kwargs)
        self.class_names = class_names


class BigearthnetLandsat(LandsatBuilder):
    """BigEarthNet-L (config "19", the default, or "43").

    Source layout: `images/<id>.tif` (7 bands, uint16), `labels/<id>_labels_metadata.json` and one CSV a split,
    `bigearthnet-{train,val,test}.csv`, with an id as the first field of a line (a first line that names no patch is a header).
    A folder without these CSVs but with others has them all in one split "train"; without any CSV, all images are "train".
    """

    name = "bigearthnet_landsat"
    BUILDER_CONFIGS = [
        BigEarthNetConfig(landsat.BIGEARTHNET_CLASSES_19, name="19", description="19-class nomenclature"),
        BigEarthNetConfig(landsat.BIGEARTHNET_CLASSES_43, name="43", description="43-class nomenclature"),
    ]

    def facts(self) -> dict[str, Any]:
        return dict(
            class_names=self.builder_config.class_names,
            task="multilabel",
            description="BigEarthNet-Landsat: Landsat 8 Collection 2 surface reflectance patches with CORINE labels.",
            homepage="https://github.com/isaaccorley/landsat-bench",
        )

    def reader(self):
        return functools.partial(read_entry, class_names=self.builder_config.class_names, keep_nodata=self.keep_nodata)

    def list_source(self) -> Listing:
        source = self.source
        if not os.path.isdir(os.path.join(source, "images")):
            raise FileNotFoundError(
                f"{source} has no folder images/; expected images/<id>.tif, labels/, bigearthnet-train.csv ..."
            )
        splits: dict[str, list[str]] = {}
        named = {split: os.path.join(source, f"bigearthnet-{split}.csv") for split in _SPLITS}
        if any(os.path.exists(path) for path in named.values()):
            splits = {split: self._ids(path) for split, path in named.items() if os.path.exists(path)}
        elif others := sorted(glob.glob(os.path.join(source, "*.csv"))):
            splits["train"] = [patch_id for path in others for patch_id in self._ids(path)]
        else:
            files = sorted(glob.glob(os.path.join(source, "images", "*.tif")))
            splits["train"] = [os.path.splitext(os.path.basename(path))[0] for path in files]
        entries = {split: [self._entry(patch_id) for patch_id in ids] for split, ids in splits.items()}
        return Listing(entries).drop_duplicates()

    def _ids(self, path: str) -> list[str]:
        with open(path) as file:
            ids = [line.split(",")[0].strip().strip('"') for line in file]
        ids = [patch_id.removesuffix(".tif") for patch_id in ids if patch_id]
        # A header names no patch: neither by its form nor by a file.
        if ids and "_" not in ids[0] and not os.path.exists(self._entry(ids[0]).path):
            ids = ids[1:]
        return ids

    def _entry(self, patch_id: str) -> Entry:
        image = os.path.join(self.source, "images", f"{patch_id}.tif")
        return Entry(patch_id, image, os.path.join(self.source, "labels", f"{patch_id}_labels_metadata.json"))

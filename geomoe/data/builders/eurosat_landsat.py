"""EuroSAT-L: 27,000 Landsat 8 patches of ten land-cover classes."""

from __future__ import annotations

import functools
import glob
import os
from typing import Any

from geomoe import landsat, metadata
from geomoe.data import geotiff
from geomoe.data.builders.base import LandsatBuilder
from geomoe.data.builders.conversion import Reader
from geomoe.data.builders.listing import Entry, Listing, Skipped, read_lines


def read_entry(entry: Entry, keep_nodata: bool) -> dict[str, Any]:
    """Read one patch; `entry.details` is the index of its class. The eighth band, ST_B10 (temperature), is dropped."""
    patch = geotiff.read_patch(entry.path, drop_extra=1, keep_nodata=keep_nodata)
    return {
        "id": entry.id,
        "image": patch.image,
        "latitude": patch.latitude,
        "longitude": patch.longitude,
        "time": metadata.UNKNOWN_TIME,
        "labels": [entry.details],
    }


class EurosatLandsat(LandsatBuilder):
    """EuroSAT-L.

    Source layout: `<Class>/<Class>_<n>.tif` (8 bands, uint16, georeferenced) and `eurosat-{train,val,test}.txt`, one file name
    a line (with or without folder and ending). Without split files, every patch is in "train". The patches carry no date.
    """

    name = "eurosat_landsat"

    def facts(self) -> dict[str, Any]:
        return dict(
            class_names=landsat.EUROSAT_CLASSES,
            task="multiclass",
            description="EuroSAT-Landsat: Landsat 8 Collection 2 surface reflectance patches of ten land-cover classes.",
            homepage="https://github.com/isaaccorley/landsat-bench",
        )

    def reader(self) -> Reader:
        return functools.partial(read_entry, keep_nodata=self.keep_nodata)

    def list_source(self) -> Listing:
        listing = Listing({})
        split_files = {s: os.path.join(self.source, f"eurosat-{s}.txt") for s in ("train", "val", "test")}
        split_files = {split: path for split, path in split_files.items() if os.path.exists(path)}
        names = {split: read_lines(path) for split, path in split_files.items()}
        if not names:
            names = {"train": sorted(os.path.basename(p) for p in glob.glob(os.path.join(self.source, "*", "*.tif")))}
        for split, files in names.items():
            listing.splits[split] = []
            for stem in (os.path.splitext(os.path.basename(name))[0] for name in files):
                class_name = stem.rsplit("_", 1)[0]
                path = os.path.join(self.source, class_name, f"{stem}.tif")
                if class_name in landsat.EUROSAT_CLASSES:
                    listing.splits[split].append(Entry(stem, path, landsat.EUROSAT_CLASSES.index(class_name)))
                else:
                    listing.skipped.append(Skipped("unknown class", stem, path, f"{class_name!r} is no EuroSAT class"))
        return listing.drop_duplicates()

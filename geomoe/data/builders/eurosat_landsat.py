"""EuroSAT-L: 27,000 Landsat 8 patches of ten land-cover classes."""

from __future__ import annotations

import functools
import glob
import os
from typing import Any

from geomoe import landsat
from geomoe.data import geotiff
from geomoe.data.builders.base import Entry, LandsatBuilder, Listing, Skipped, time_text


def read_entry(entry: Entry, keep_nodata: bool) -> dict[str, Any]:
    """One patch; `entry.details` is the index of its class. The eighth band, ST_B10 (temperature), is dropped."""
    patch = geotiff.read_patch(entry.path, drop_extra=1, keep_nodata=keep_nodata)
    return {
        "id": entry.id,
        "image": patch.image,
        "latitude": patch.latitude,
        "longitude": patch.longitude,
        "time": time_text(None),
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

    def reader(self):
        return functools.partial(read_entry, keep_nodata=self.keep_nodata)

    def list_source(self) -> Listing:
        listing = Listing({})
        split_files = {s: os.path.join(self.source, f"eurosat-{s}.txt") for s in ("train", "val", "test")}
        split_files = {split: path for split, path in split_files.items() if os.path.exists(path)}
        if split_files:
            names = {split: self._names(path) for split, path in split_files.items()}
        else:
            names = {"train": sorted(os.path.basename(p)[:-4] for p in glob.glob(os.path.join(self.source, "*", "*.tif")))}
        for split, stems in names.items():
            listing.splits[split] = []
            for stem in stems:
                class_name = stem.rsplit("_", 1)[0]
                path = os.path.join(self.source, class_name, f"{stem}.tif")
                if class_name in landsat.EUROSAT_CLASSES:
                    listing.splits[split].append(Entry(stem, path, landsat.EUROSAT_CLASSES.index(class_name)))
                else:
                    listing.skipped.append(Skipped("unknown class", stem, path, f"{class_name!r} is no EuroSAT class"))
        return listing.drop_duplicates()

    def _names(self, path: str) -> list[str]:
        with open(path) as file:
            names = [line.strip() for line in file]
        return [os.path.splitext(os.path.basename(name))[0] for name in names if name]

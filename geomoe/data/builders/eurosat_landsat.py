"""EuroSAT-L: 27,000 Landsat 8 patches of ten land-cover classes."""

import functools
import os
from typing import Any

import numpy as np

from geomoe import landsat
from geomoe.data import geotiff, records
from geomoe.data.builders.base import LandsatBuilder
from geomoe.data.builders.listing import Entry, Listing, Reader, Skipped, read_splits
from geomoe.data.folder import Names, find_geotiffs, plain_name
from geomoe.data.preprocess import InputSpec, to_records


def read_entry(entry: Entry, keep_nodata: bool) -> dict[str, Any]:
    """Read one patch; `entry.details` is the index of its class. The eighth band, ST_B10 (temperature), is dropped."""
    patch = geotiff.read_patch(entry.path, InputSpec(sensor="landsat8"), drop_extra=1, keep_nodata=keep_nodata)
    return records.record(
        entry.id, to_records(patch.image, InputSpec()), patch.latitude, patch.longitude, np.datetime64("NaT"), [entry.details]
    )


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
        files = find_geotiffs(self.source)
        names = Names(self.source, files)
        lines = read_splits(self.source, "eurosat-{}.txt") or {"train": [("", file.id) for file in files]}
        listing = Listing({split: [] for split in lines})
        for split, stated in lines.items():
            for where, text in stated:
                try:
                    stem = os.path.basename(plain_name(text))
                    class_name = stem.rsplit("_", 1)[0]
                    file = names.find(f"{class_name}/{stem}")
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None
                path = file.path if file else os.path.join(self.source, class_name, f"{stem}.tif")
                if class_name in landsat.EUROSAT_CLASSES:
                    listing.splits[split].append(Entry(stem, path, landsat.EUROSAT_CLASSES.index(class_name)))
                else:
                    listing.skipped.append(Skipped("unknown class", stem, path, f"{class_name!r} is no EuroSAT class"))
        return listing.drop_duplicates()

"""GeoTIFFs for tests: patches, scenes and the layouts of datasets."""

import json

import numpy as np
import rasterio
from affine import Affine

UTM33 = "EPSG:32633"


def write_tif(path, image, crs=UTM33, origin=(500000.0, 5300000.0), descriptions=None, tags=None, **options):
    """(H, W, C) -> GeoTIFF of 30 m pixels with its upper left corner at `origin`; without a CRS, nowhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    georeference = {} if crs is None else dict(crs=crs, transform=Affine(30.0, 0.0, origin[0], 0.0, -30.0, origin[1]))
    h, w, c = image.shape
    profile = dict(driver="GTiff", height=h, width=w, count=c, dtype=image.dtype, **georeference, **options)
    with rasterio.open(path, "w", **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
        if descriptions:
            file.descriptions = descriptions
        file.update_tags(**(tags or {}))
    return path


def pixels(bands=7, size=(41, 43), seed=0, dtype=np.uint16):
    """(H, W, C) numbers that land has."""
    return np.random.default_rng(seed).integers(7000, 20000, (*size, bands)).astype(dtype)


def write_scene(folder, stem, image, prefix="B", numbers=range(1, 8), qa=None, qa_name="QA_PIXEL", mtl=None, **options):
    """One file a band of (H, W, C), and where asked for a quality band (H, W) and a metadata file."""
    for channel, number in enumerate(numbers):
        write_tif(folder / f"{stem}_{prefix}{number}.TIF", image[..., channel : channel + 1], **options)
    if qa is not None:
        where = {key: options[key] for key in ("crs", "origin") if key in options}
        write_tif(folder / f"{stem}_{qa_name}.TIF", qa[..., None].astype(np.uint16), **where)
    if mtl is not None:
        (folder / f"{stem}_MTL.txt").write_text(mtl)
    return folder


BIGEARTHNET_ID = "S2A_MSIL2A_20170613T101031_{}_{}"


def write_bigearthnet(folder, ids, labels=("Pastures", "Airports")):
    """Patch i has the pixels of seed i; every label file has the same classes."""
    for i, patch_id in enumerate(ids):
        write_tif(folder / "images" / f"{patch_id}.tif", pixels(seed=i))
        path = folder / "labels" / f"{patch_id}_labels_metadata.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"labels": list(labels), "acquisition_date": "2017-06-13 10:10:31"}))
    return folder

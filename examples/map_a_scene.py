"""From labelled patches to a map: embed a folder, train a probe, map a scene.

    python examples/map_a_scene.py --checkpoint runs/demo --work OUT      # on synthetic patches and a synthetic scene
    python examples/map_a_scene.py --checkpoint runs/S --work OUT --patches DIR --labels labels.csv --scene SCENE

`--unit level1_dn` and the like say what the numbers are. labels.csv has the columns id (file name without its ending) and
label. OUT gets patches.parquet, probe.npz, scene.tif (embeddings) and map.tif (class numbers from 1, 0 where nothing was
embedded; the class names are in its tags).
"""

import argparse
import csv
import pathlib

import numpy as np
import rasterio
from rasterio.transform import from_origin

import geomoe
from geomoe import embeddings, landsat, probing
from geomoe.data import preprocess, synthetic


def write_geotiff(path, image, left=500_000.0, top=5_300_000.0, **tags):
    profile = dict(driver="GTiff", height=image.shape[0], width=image.shape[1], count=7, dtype="uint16", nodata=0)
    with rasterio.open(path, "w", crs="EPSG:32632", transform=from_origin(left, top, 30, 30), **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
        file.descriptions = landsat.BANDS
        file.update_tags(**tags)


def make_example(folder, count=300, side=5):
    """Synthetic labelled patches and a scene of side x side patches of 40 pixels: the folder, the labels, the scene."""
    patches = folder / "patches"
    patches.mkdir(parents=True, exist_ok=True)
    with open(folder / "labels.csv", "w") as file:
        print("id,label", file=file)
        for i in range(count):
            one = synthetic.scene(0, "train", i)
            stamp = str(one.time).replace("-", ":").replace("T", " ")
            write_geotiff(patches / f"{i:04d}.tif", one.image, TIFFTAG_DATETIME=stamp)
            print(f"{i:04d},{synthetic.CLASSES[one.dominant]}", file=file)
    rows = [np.hstack([synthetic.scene(0, "test", i * side + j).image[:40, :40] for j in range(side)]) for i in range(side)]
    write_geotiff(folder / "scene.tif", np.vstack(rows), TIFFTAG_DATETIME="2020:06:18 10:00:00")
    return patches, folder / "labels.csv", folder / "scene.tif"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--patches", type=pathlib.Path)
    parser.add_argument("--labels", type=pathlib.Path)
    parser.add_argument("--scene")
    parser.add_argument("--unit", default="collection2_dn", choices=landsat.UNITS)
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    given = [args.patches, args.labels, args.scene]
    if any(given) and not all(given):
        parser.error("--patches, --labels and --scene go together")
    patches, labels, scene = given if all(given) else make_example(args.work / "example")
    encoder = geomoe.load(args.checkpoint)

    # 1. The folder of patches to vectors. Coordinates and time come from the files.
    table = args.work / "patches.parquet"
    what = preprocess.InputSpec(unit=args.unit, resize_mode="centre_crop")
    if not table.exists():
        embeddings.embed_folder(encoder, embeddings.Sink(table), patches, spec=what)
    found = embeddings.read(table)
    with open(labels, newline="") as file:
        label = {row["id"]: row["label"] for row in csv.DictReader(file)}
    used = found["embedded"] & np.isin(found["id"], list(label))
    classes, y = np.unique([label[name] for name in found["id"][used]], return_inverse=True)
    x = found["vector"][used]

    # 2. A probe, with an honest look at it first.
    honest = probing.cross_validate(x, y, task="multiclass", count=5)
    low, high = honest.intervals["accuracy"]
    print(f"{len(x)} patches, {len(classes)} classes; accuracy {honest.metrics['accuracy']:.3f} ({low:.3f} to {high:.3f})")
    probe = probing.linear_probe((x, y), (x, y), task="multiclass", resamples=0).model
    probe.save(args.work / "probe.npz")

    # 3. The scene, window by window, and the class of each window.
    raster = args.work / "scene.tif"
    if not raster.exists():
        embeddings.embed_scene(encoder, embeddings.Sink(raster), scene, spec=preprocess.InputSpec(unit=args.unit), stride=8)
    with rasterio.open(raster) as file:
        vectors, profile = file.read(), file.profile
    here = np.isfinite(vectors).all(axis=0)
    cover = np.zeros(here.shape, np.uint8)
    cover[here] = 1 + probe.predict(vectors[:, here].T)
    for key in ("blockxsize", "blockysize", "tiled", "interleave", "predictor"):
        profile.pop(key, None)
    with rasterio.open(args.work / "map.tif", "w", **{**profile, "count": 1, "dtype": "uint8", "nodata": 0}) as file:
        file.write(cover, 1)
        file.update_tags(**{f"class_{i + 1}": name for i, name in enumerate(classes)})
    shares = ", ".join(f"{name} {np.mean(cover[here] == i + 1):.0%}" for i, name in enumerate(classes))
    print(f"{args.work / 'map.tif'}: {here.sum()} windows; {shares}")


if __name__ == "__main__":
    main()

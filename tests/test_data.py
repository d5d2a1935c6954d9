"""From GeoTIFFs to batches: every flaw of real data, conversion, pipeline."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyproj
import pytest
import rasterio
from conftest import ROOT
from rasterio.transform import from_origin

from geomoe import data, landsat, metadata
from geomoe.data import synthetic
from geomoe.data.augment import Preparation
from geomoe.data.builders import (
    BigearthnetLandsat,
    EurosatLandsat,
    LandsatFolder,
    SyntheticConfig,
    SyntheticLandsat,
    read_skipped,
)
from geomoe.data.builders.base import serialize
from geomoe.data.geotiff import PatchError, read_patch


def write_tif(path, image, crs="EPSG:32633", origin=(500000.0, 5300000.0), **options):
    """(H, W, C) -> GeoTIFF of 30 m pixels with its upper left corner at `origin`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {} if crs is None else dict(crs=crs, transform=from_origin(*origin, 30, 30))
    h, w, c = image.shape
    with rasterio.open(path, "w", driver="GTiff", height=h, width=w, count=c, dtype=image.dtype, **place, **options) as dst:
        dst.write(np.moveaxis(image, 2, 0))
    return path


def pixels(bands=7, size=(41, 43), seed=0, dtype=np.uint16):
    return np.random.default_rng(seed).integers(7000, 20000, (*size, bands)).astype(dtype)


@pytest.mark.parametrize(
    "options", [{}, {"compress": "lzw"}, {"interleave": "band"}, {"tiled": True, "blockxsize": 16, "blockysize": 16}]
)
def test_a_patch_is_read_whole_and_placed_by_its_crs(tmp_path, options):
    image = pixels()
    patch = read_patch(write_tif(tmp_path / "a.tif", image, **options))
    np.testing.assert_array_equal(patch.image, image)
    # The central meridian of zone 33 is 15 E; the middle lies 645 m east and 615 m south of the corner.
    assert patch.longitude == pytest.approx(15 + 645 / (111_320 * np.cos(np.radians(47.85))), abs=2e-4)
    assert patch.latitude == pytest.approx(47.85, abs=0.02)
    degrees = write_tif(tmp_path / "b.tif", image, crs="EPSG:4326", origin=(10.0, 50.0))
    with rasterio.open(degrees, "r+") as dst:
        dst.transform = from_origin(10.0, 50.0, 0.001, 0.002)
    patch = read_patch(degrees)
    assert (patch.longitude, patch.latitude) == pytest.approx((10 + 43 / 2 * 0.001, 50 - 41 / 2 * 0.002))


def test_each_flaw_of_a_patch_has_its_name(tmp_path):
    (tmp_path / "junk.tif").write_bytes(b"II*\0 no tiff")
    write_tif(tmp_path / "six.tif", pixels(6))
    write_tif(tmp_path / "int.tif", pixels(dtype=np.int16))
    nan = pixels(dtype=np.float32)
    nan[0, 0, 0] = np.nan
    write_tif(tmp_path / "nan.tif", nan)
    write_tif(tmp_path / "zero.tif", pixels() * 0)
    write_tif(tmp_path / "nowhere.tif", pixels(), crs=None)
    wanted = {
        "gone.tif": "missing image",
        "junk.tif": "unreadable image",
        "six.tif": "wrong band count",
        "int.tif": "wrong dtype",
        "nan.tif": "NaN in image",
        "zero.tif": "all nodata",
        "nowhere.tif": "no CRS",
    }
    for name, kind in wanted.items():
        with pytest.raises(PatchError, match=name) as error:
            read_patch(tmp_path / name)
        assert error.value.kind == kind
    assert read_patch(tmp_path / "zero.tif", keep_nodata=True).image.max() == 0
    tagged = pixels()
    tagged[:3] = 65535
    patch = read_patch(write_tif(tmp_path / "tagged.tif", tagged, nodata=65535))
    assert (patch.image[:3] == 0).all() and (patch.image[3:] == tagged[3:]).all()


NAME = "S2A_MSIL2A_20170613T101031_{}_{}"


def make_bigearthnet(folder, ids, labels=("Pastures", "Airports")):
    for i, patch_id in enumerate(ids):
        write_tif(folder / "images" / f"{patch_id}.tif", pixels(seed=i))
        path = folder / "labels" / f"{patch_id}_labels_metadata.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"labels": list(labels), "acquisition_date": "2017-06-13 10:10:31"}))
    return folder


def test_bigearthnet_with_every_flaw(tmp_path):
    ids = [NAME.format(1, i) for i in range(12)]
    source = make_bigearthnet(tmp_path / "source", ids)
    label = lambda i: source / "labels" / f"{ids[i]}_labels_metadata.json"  # noqa: E731
    label(0).unlink()
    label(1).write_text("{broken")
    label(2).write_text(json.dumps({"labels": ["Pastures"], "acquisition_date": "yesterday"}))
    label(3).write_text(json.dumps({"labels": ["Moon dust"], "acquisition_date": "2017-06-13 10:10:31"}))
    (source / "images" / f"{ids[4]}.tif").unlink()
    write_tif(source / "images" / f"{ids[5]}.tif", pixels() * 0)
    (source / "bigearthnet-train.csv").write_text("id,x\n" + "\n".join(f"{i},1" for i in [*ids[:9], ids[8]]) + "\n")
    (source / "bigearthnet-val.csv").write_text("\n".join(ids[9:]) + "\n")
    builder = BigearthnetLandsat(source=source, data_dir=tmp_path / "data")
    builder.download_and_prepare()
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {"train": 3, "val": 3}
    skipped = {row.kind: row for row in read_skipped(builder.data_dir)}
    assert {kind: row.id for kind, row in skipped.items()} == {
        "missing label": ids[0],
        "unreadable label": ids[1],
        "bad time stamp": ids[2],
        "unknown class": ids[3],
        "missing image": ids[4],
        "all nodata": ids[5],
        "duplicate id": ids[8],
    }
    assert all(ids[i] in skipped[kind].path for i, kind in ((1, "unreadable label"), (5, "all nodata")))
    example = next(iter(builder.as_dataset("val").as_numpy_iterator()))
    i = ids.index(example["id"].decode())
    np.testing.assert_array_equal(example["image"], pixels(seed=i))
    assert example["time"] == b"2017-06-13T10:10:31"
    assert [landsat.BIGEARTHNET_CLASSES_19[k] for k in example["labels"]] == ["Pastures"]
    fine = BigearthnetLandsat(source=source, data_dir=tmp_path / "data", config="43")
    fine.download_and_prepare()
    example = next(iter(fine.as_dataset("val").as_numpy_iterator()))
    assert [landsat.BIGEARTHNET_CLASSES_43[k] for k in example["labels"]] == ["Airports", "Pastures"]
    with pytest.raises(PatchError, match="duplicate id"):
        BigearthnetLandsat(source=source, data_dir=tmp_path / "strict", strict=True).download_and_prepare()


def test_the_real_sample(shared, tmp_path):
    """199 of 200 patches have labels; one of those is without any data and is left out unless asked for."""
    counts = np.array([18, 6, 69, 8, 29, 33, 45, 9, 54, 75, 71, 4, 4, 53, 0, 11, 0, 30, 39])  # as its README counts them
    builder = BigearthnetLandsat(source=shared / "landsat_sample", data_dir=tmp_path / "all", keep_nodata=True)
    builder.download_and_prepare()
    assert builder.info.splits["train"].num_examples == 199
    assert [row.kind for row in read_skipped(builder.data_dir)] == ["missing label"]
    labels = np.concatenate([batch["labels"] for batch in data.load(builder, "train").as_numpy_iterator()])
    np.testing.assert_array_equal(labels.sum(axis=0), counts)
    hours = [e["time"][11:13] for e in builder.as_dataset("train").as_numpy_iterator()]
    assert {int(h) for h in hours} <= {9, 10, 11}  # the short stamps too
    builder = BigearthnetLandsat(source=shared / "landsat_sample", data_dir=tmp_path / "some")
    builder.download_and_prepare()
    assert sorted(row.kind for row in read_skipped(builder.data_dir)) == ["all nodata", "missing label"]


def test_eurosat(tmp_path):
    source = tmp_path / "source"
    for i, name in enumerate(["Forest_1", "SeaLake_7", "Forest_2"]):
        write_tif(source / name.split("_")[0] / f"{name}.tif", pixels(8, (22, 22), seed=i))
    (source / "eurosat-train.txt").write_text("Forest_1.tif\nSeaLake/SeaLake_7.tif\n")
    (source / "eurosat-test.txt").write_text("Forest_2\nForest_9\nMoon_1\n")
    builder = EurosatLandsat(source=source, data_dir=tmp_path / "data")
    builder.download_and_prepare()
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {"train": 2, "test": 1}
    assert sorted(row.kind for row in read_skipped(builder.data_dir)) == ["missing image", "unknown class"]
    batch = next(data.load(builder, "test", resize_mode="resize").as_numpy_iterator())
    assert batch["image"].shape == (1, 40, 40, 7) and batch["labels"].argmax() == 1
    assert batch["time"][0] == b"unknown" and not batch["week"].any() and batch["lat"].any()


def test_a_folder_of_landsat_7(tmp_path):
    """Six bands become seven: the coastal one has the blue one's z-score under the published statistics."""
    rng = np.random.default_rng(0)
    image = rng.integers(7000, 15000, (40, 40, 6)).astype(np.uint16)
    image[:3, :3] = 0
    (tmp_path / "in").mkdir()
    write_tif(tmp_path / "in" / "a.tif", image)
    with pytest.raises(ValueError, match="1 wrong band count"):
        data.BUILDERS["landsat_folder"](source=tmp_path / "in", data_dir=tmp_path / "no").download_and_prepare()
    builder = data.BUILDERS["landsat_folder"](source=tmp_path / "in", data_dir=tmp_path / "out", sensor="landsat7")
    builder.download_and_prepare()
    batch = next(data.load(builder, "train", statistics=data.published_statistics("bigearthnet_landsat")).as_numpy_iterator())
    z, valid = batch["image"][0], batch["valid"][0]
    assert valid.sum() == 40 * 40 - 9
    np.testing.assert_allclose(z[valid][:, 0], z[valid][:, 1], atol=2e-4)
    published = landsat.STATISTICS["bigearthnet_landsat"]
    expected = (image[20, 20] - np.array(published["mean"][1:])) / np.array(published["std"][1:])
    np.testing.assert_allclose(z[20, 20, 1:], expected, atol=1e-4)
    with pytest.raises(ValueError, match="sensor = 'spot'"):
        data.BUILDERS["landsat_folder"](data_dir=tmp_path / "out", sensor="spot")


def test_a_folder_with_a_table(tmp_path):
    source = tmp_path / "source"
    write_tif(source / "a" / "one.tif", pixels(seed=1))
    write_tif(source / "two.tif", pixels(seed=2), crs=None)
    write_tif(source / "three.TIF", pixels(seed=3))
    write_tif(source / "late.tif", pixels(seed=4))
    table = tmp_path / "labels.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["id", "labels", "latitude", "longitude", "time", "split"],
                ["one.tif", "field;forest", "", "", "2020-02-03T04:05:06Z", ""],
                ["two", "forest", "-10.5", "170.25", "", "test"],
                ["late", "field", "", "", "2020-13-01", ""],
                ["ghost", "field", "", "", "", ""],
            ]
        )
    builder = LandsatFolder(source=source, labels=table, data_dir=tmp_path / "data", config="mine")
    builder.download_and_prepare()
    assert builder.info.features["labels"].feature.names == ["field", "forest"]
    assert {row.kind: row.id for row in read_skipped(builder.data_dir)} == {
        "missing label": "three",
        "bad time stamp": "late",
        "missing image": "ghost",
    }
    train, test = (
        next(
            data.load(
                "landsat_folder/mine",
                s,
                data_dir=tmp_path / "data",
                statistics=data.published_statistics("bigearthnet_landsat"),
            ).as_numpy_iterator()
        )
        for s in ("train", "test")
    )
    np.testing.assert_array_equal(train["labels"], [[1, 1]])
    assert train["time"][0] == b"2020-02-03T04:05:06"
    np.testing.assert_array_equal(test["labels"], [[0, 1]])
    assert (test["latitude"][0], test["longitude"][0]) == (-10.5, 170.25)
    bad = tmp_path / "bad.csv"
    bad.write_text("id,klass\none,field\n")
    with pytest.raises(ValueError, match="bad.csv.*klass"):
        LandsatFolder(source=source, labels=bad, data_dir=tmp_path / "other", config="x")


def test_scenes_are_cut_into_patches(tmp_path):
    """Side by side, in their places, brought to Collection 2's numbers; windows under clouds or without data are skipped."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "scenes" / "one"
    folder.mkdir(parents=True)
    stem = "LC08_L1TP_190025_20200518_20200820_01_T1"
    ground = rng.integers(6000, 20000, (100, 130, 7)).astype(np.uint16)
    ground[:40, :40] = 0
    for band in range(7):
        write_tif(folder / f"{stem}_B{band + 1}.TIF", ground[..., band : band + 1])
    cloudy = np.zeros((100, 130, 1), np.uint16)
    cloudy[40:80, 40:80] = 1 << 3
    write_tif(folder / f"{stem}_QA_PIXEL.TIF", cloudy)
    (folder / f"{stem}_MTL.txt").write_text(
        'PROCESSING_LEVEL = "L1TP"\nDATE_ACQUIRED = 2020-05-18\nSCENE_CENTER_TIME = "09:41:02Z"\nSUN_ELEVATION = 50.0\n'
    )
    made = data.BUILDERS["landsat_scene"]
    with pytest.raises(ValueError, match="level-1 product.*unit='level1_dn'"):
        made(source=folder, data_dir=tmp_path / "no").download_and_prepare()
    for source in (folder, tmp_path / "scenes"):
        builder = made(source=source, data_dir=tmp_path / source.name, unit="level1_dn", side=40)
        builder.download_and_prepare()
        skipped = read_skipped(builder.data_dir)
        assert sorted(row.kind for row in skipped) == ["all nodata", "clouds"]
        options = dict(statistics=data.Statistics((0,) * 7, (1,) * 7, "none"))
        batch = next(data.load(builder, "train", **options).as_numpy_iterator())
        assert len(batch["id"]) == 2 * 3 - 2
        at = batch["id"].tolist().index(f"{stem}_40_80".encode())
        reflectance = (ground[40:80, 80:120] * 2.0e-5 - 0.1) / np.sin(np.radians(50.0))
        np.testing.assert_allclose(batch["image"][at], (reflectance + 0.2) / 0.0000275, atol=0.6)
        east, north = 500000 + 30 * 100, 5300000 - 30 * 60
        longitude, latitude = pyproj.Transformer.from_crs(32633, 4326, always_xy=True).transform(east, north)
        np.testing.assert_allclose([batch["latitude"][at], batch["longitude"][at]], [latitude, longitude], atol=1e-5)
        assert batch["time"][at] == b"2020-05-18T09:41:02"
    with pytest.raises(FileNotFoundError, match="there is no scene"):
        made(source=tmp_path / "nowhere", data_dir=tmp_path / "no").download_and_prepare()


def test_conversion_resumes_and_a_changed_source_starts_anew(tmp_path, monkeypatch):
    ids = [NAME.format(2, i) for i in range(10)]
    source = make_bigearthnet(tmp_path / "source", ids)
    from geomoe.data.builders import base

    whole = base._write_shard
    calls = []

    def failing(job):
        calls.append(job.path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr(base, "_write_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        BigearthnetLandsat(source=source, data_dir=tmp_path / "data").download_and_prepare()
    assert not (tmp_path / "data" / "bigearthnet_landsat" / "19" / "1.0.0").exists()
    builder = BigearthnetLandsat(source=source, data_dir=tmp_path / "data")
    builder.download_and_prepare()
    assert builder.resumed_shards == 3 and builder.info.splits["train"].num_examples == 10
    found = {e["id"].decode() for e in builder.as_dataset("train").as_numpy_iterator()}
    assert found == set(ids)


def test_workers_write_the_same_records(tmp_path, monkeypatch):
    monkeypatch.setattr("geomoe.data.builders.base._MIN_PARALLEL", 1)
    ids = [NAME.format(3, i) for i in range(6)]
    source = make_bigearthnet(tmp_path / "source", ids)
    contents = []
    for workers in (1, 2):
        builder = BigearthnetLandsat(source=source, data_dir=tmp_path / str(workers), workers=workers)
        builder.download_and_prepare()
        contents.append([path.read_bytes() for path in sorted(builder.data_path.glob("*.tfrecord*"))])
    assert contents[0] == contents[1] and len(contents[0]) > 1


def test_our_serializer_writes_what_tfds_writes(tmp_path):
    import tensorflow as tf
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    builder = SyntheticLandsat(data_dir=tmp_path)
    record = synthetic.record(0, "train", 5)
    del record["dominant"]
    features = builder.info.features
    theirs = ExampleSerializer(features.get_serialized_info()).serialize_example(features.encode_example(record))
    parse = lambda raw: {k: v.SerializeToString() for k, v in tf.train.Example.FromString(raw).features.feature.items()}  # noqa: E731
    assert parse(theirs) == parse(serialize(record))


def test_synthetic_patches():
    a, b = (synthetic.scene(7, "train", 3) for _ in range(2))
    np.testing.assert_array_equal(a.image, b.image)
    assert a.image.dtype == np.uint16 and a.image.shape == (44, 44, 7)
    assert not np.array_equal(a.image, synthetic.scene(8, "train", 3).image)
    scenes = [synthetic.scene(0, "train", i) for i in range(150)]
    assert set().union(*(s.labels for s in scenes)) == set(range(10))
    assert all(s.dominant in s.labels for s in scenes)
    assert any((s.image == 0).any() for s in scenes)
    # Vegetation rises from red to near infrared, water falls; in reflectance, by construction of the published curves.
    name = {c: i for i, c in enumerate(synthetic.CLASSES)}
    means = {}
    for cover in ("needle-leaved forest", "sea"):
        found = [landsat.dn_to_reflectance(s.image)[s.cover == name[cover]] for s in scenes if (s.cover == name[cover]).any()]
        means[cover] = np.nanmean(np.concatenate(found), axis=0)
    assert means["needle-leaved forest"][4] > 3 * means["needle-leaved forest"][3]
    assert means["sea"][4] < means["sea"][2]
    # The same fields at two dates: winter crops are green in May and bare in September, summer crops the other way.
    assert synthetic.greenness("winter crop", 20, 48) > 0.8 > 0.3 > synthetic.greenness("winter crop", 36, 48)
    assert synthetic.greenness("summer crop", 20, 48) < 0.2 < 0.7 < synthetic.greenness("summer crop", 31, 48)
    assert synthetic.greenness("summer crop", 31 - 26, -48) == synthetic.greenness("summer crop", 31, 48)
    changed = synthetic.scene(0, "train", 0, replace_cover=(synthetic.CLASSES[scenes[0].dominant], "town"))
    assert (changed.cover != scenes[0].cover).any() and changed.latitude == scenes[0].latitude


def test_metadata_helps_and_does_not_suffice_on_synthetic_patches():
    """Which crop a field holds: from place and time alone, from its greenness (NDVI) alone, and from both together."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    rows, place, target = [], [], []
    for i in range(800):
        s = synthetic.scene(1, "train", i)
        week, _ = metadata.encode_time(np.array([s.time]))
        for crop in (0, 1):
            if (s.cover == crop).mean() > 0.15:
                red, near = np.nanmean(landsat.dn_to_reflectance(s.image)[s.cover == crop][:, [3, 4]], axis=0)
                rows.append([(near - red) / (near + red)])
                place.append([*week[0], np.sign(s.latitude)])
                target.append(crop)
    rows, place, target = map(np.array, (rows, place, target))
    assert len(target) > 100

    def score(x):
        model = make_pipeline(
            StandardScaler(), PolynomialFeatures(3), StandardScaler(), LogisticRegression(C=1.0, max_iter=500)
        )
        return cross_val_score(model, x, target, cv=5).mean()

    alone, green, both = score(place), score(rows), score(np.hstack([rows, place]))
    assert alone < 0.65
    assert both > green + 0.1


@pytest.fixture(scope="module")
def statistics(synthetic_dir):
    return data.compute_statistics("synthetic_landsat/small", "train", synthetic_dir)


def test_statistics_are_those_of_the_valid_pixels(synthetic_dir, statistics):
    images = [synthetic.scene(0, "train", i).image for i in range(96)]
    valid = np.concatenate([im[(im != 0).all(axis=-1)] for im in images]).astype(np.float64)
    np.testing.assert_allclose(statistics.mean, valid.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(statistics.std, valid.std(axis=0), rtol=1e-6)


def test_batches(synthetic_dir, statistics):
    by_id = {}
    for batch in data.load(
        "synthetic_landsat/small", "test", data_dir=synthetic_dir, statistics=statistics, batch_size=20
    ).as_numpy_iterator():
        by_id |= {i.decode(): {k: v[n] for k, v in batch.items()} for n, i in enumerate(batch["id"])}
    assert len(by_id) == 48  # the last, smaller batch included
    made = synthetic.scene(0, "test", 11)
    ours = by_id["synthetic_0_test_000011"]
    z = (made.image[2:42, 2:42].astype(np.float64) - statistics.mean) / statistics.std
    np.testing.assert_allclose(ours["image"], z, atol=1e-4)
    np.testing.assert_array_equal(np.flatnonzero(ours["labels"]), made.labels)
    np.testing.assert_array_equal(ours["valid"], (made.image[2:42, 2:42] != 0).all(axis=-1))
    week, hour = metadata.encode_time(np.array([made.time]))
    np.testing.assert_allclose(ours["week"], week[0], atol=1e-6)
    np.testing.assert_allclose(ours["hour"], hour[0], atol=1e-6)
    np.testing.assert_allclose(ours["lat"], metadata.encode_degrees([made.latitude])[0], atol=1e-6)


def take(dataset, count):
    return [batch for batch, _ in zip(dataset.as_numpy_iterator(), range(count))]


def test_training_batches_go_on_from_any_batch(synthetic_dir, statistics):
    options = dict(
        data_dir=synthetic_dir,
        statistics=statistics,
        batch_size=16,
        train=True,
        resize_mode="random_crop",
        augment=data.Augment(flips=True, rot90=True, metadata_dropout=0.3, coastal_dropout=0.2),
        seed=5,
        views=2,
    )
    name = "synthetic_landsat/small"
    whole = take(data.load(name, "train", **options), 15)  # 6 batches an epoch
    for start in (4, 6, 13):
        rest = take(data.load(name, "train", start_batch=start, cache=True, **options), 2)
        for a, b in zip(whole[start:], rest):
            for key in a:
                np.testing.assert_array_equal(a[key], b[key], err_msg=f"{key} from {start}")
    epochs = [sorted(i for batch in whole[e : e + 6] for i in batch["id"]) for e in (0, 6)]
    assert epochs[0] == epochs[1] and len(set(epochs[0])) == 96
    assert [b["id"].tolist() for b in whole[:6]] != [b["id"].tolist() for b in whole[6:12]]
    other = take(data.load(name, "train", **{**options, "seed": 6}), 1)[0]
    assert other["id"].tolist() != whole[0]["id"].tolist()
    missing = np.mean([[not batch[k][n].any() for n in range(16)] for batch in whole for k in ("week", "hour", "lat", "lon")])
    assert 0.2 < missing < 0.4
    same = [np.array_equal(b["image"][n], b["second_view"][n]) for b in whole for n in range(16)]
    assert np.mean(same) < 0.1


def test_resized_crops_and_what_is_valid_in_them(synthetic_dir, statistics):
    """A square of a random side brought to the model's size; a pixel is valid where no pixel without data was mixed in."""
    augment = data.Augment(crop_sides=(22, 30))
    options = dict(data_dir=synthetic_dir, statistics=statistics, batch_size=96, train=True, seed=3)
    name = "synthetic_landsat/small"
    crops = take(data.load(name, "train", resize_mode="random_resized_crop", augment=augment, views=2, **options), 1)[0]
    exact = data.Augment(crop_sides=(40, 40))
    plain = take(data.load(name, "train", resize_mode="random_resized_crop", augment=exact, **options), 1)[0]
    cropped = take(data.load(name, "train", resize_mode="random_crop", **options), 1)[0]
    np.testing.assert_array_equal(plain["image"], cropped["image"])
    roughness = lambda z: np.abs(np.diff(z, axis=1)).mean()
    assert roughness(crops["image"]) < 0.8 * roughness(plain["image"])  # larger pixels, smoother images
    for image, valid in (("image", "valid"), ("second_view", "second_valid")):
        empty = np.all(np.abs(crops[image] * statistics.std + statistics.mean) < 0.5, axis=-1)
        assert not (empty & crops[valid]).any() and empty.any()
        assert crops[valid].mean() > 0.9
    fitted = Preparation(40, "random_resized_crop", augment, None, np.zeros(1), np.ones(1)).fitted
    image = np.arange(44 * 44, dtype=np.float32).reshape(44, 44, 1)
    steps = [np.diff(fitted(image, np.array([0, 0, 0, 0, 0, draw, 0]))[20, :, 0]).max() for draw in (0, 0.5, 0.999)]
    np.testing.assert_allclose(steps, [22 / 40, 26 / 40, 30 / 40], rtol=1e-3)  # a pixel of the crop in steps of the result


def test_place_and_time_before_the_dropout_and_the_coastal_band(synthetic_dir, statistics):
    augment = data.Augment(metadata_dropout=0.5, coastal_dropout=0.5)
    options = dict(data_dir=synthetic_dir, statistics=statistics, batch_size=96, train=True, seed=1)
    batch = take(data.load("synthetic_landsat/small", "train", augment=augment, **options), 1)[0]
    given = np.stack([batch[name] for name in metadata.FIELDS], axis=1)
    told = given.any(axis=-1)
    assert 0.35 < told.mean() < 0.65 and batch["metadata"].any(axis=-1).all()
    np.testing.assert_array_equal(given[told], batch["metadata"][told])
    same = (batch["image"][..., 0] == batch["image"][..., 1]).all(axis=(1, 2))
    assert 0.3 < same.mean() < 0.7


def test_band_jitter_moves_whole_bands_by_the_deviation_asked_for(synthetic_dir, statistics):
    options = dict(data_dir=synthetic_dir, statistics=statistics, batch_size=96, train=True, seed=1)
    name = "synthetic_landsat/small"
    plain = take(data.load(name, "train", **options), 1)[0]["image"]
    moved = take(data.load(name, "train", augment=data.Augment(band_jitter=0.1), **options), 1)[0]["image"]
    gains, offsets = [], []
    for before, after in zip(plain, moved):
        for band in range(7):
            gain, offset = np.polyfit(before[..., band].ravel(), after[..., band].ravel(), 1)
            np.testing.assert_allclose(gain * before[..., band] + offset, after[..., band], atol=1e-3)
            gains.append(gain)
            offsets.append(offset)
    np.testing.assert_allclose([np.mean(gains), np.std(gains)], [1, 0.1], atol=0.01)
    np.testing.assert_allclose([np.mean(offsets), np.std(offsets)], [0, 0.1 * 2**0.5], atol=0.02)
    assert np.corrcoef(np.reshape(offsets, (-1, 7)).T)[0, 1] > 0.2  # an offset is common to all bands


def test_augmentation_only_moves_pixels(synthetic_dir, statistics):
    """A flipped and turned centre crop is one of the eight symmetries of the plain one."""
    options = dict(data_dir=synthetic_dir, statistics=statistics, batch_size=96)
    name = "synthetic_landsat/small"
    plain = take(data.load(name, "train", **options), 1)[0]
    moved = take(data.load(name, "train", train=True, augment=data.Augment(flips=True, rot90=True), **options), 1)[0]
    where = {i: n for n, i in enumerate(plain["id"])}
    seen = set()
    for n, i in enumerate(moved["id"]):
        image = plain["image"][where[i]]
        symmetries = [np.rot90(f, k) for f in (image, image[::-1]) for k in range(4)]
        hits = [k for k, s in enumerate(symmetries) if np.array_equal(s, moved["image"][n])]
        assert hits
        seen.add(hits[0])
    assert len(seen) == 8


def test_sizes_clip_and_processes(synthetic_dir, statistics):
    load = lambda split, **kw: data.load("synthetic_landsat/small", split, data_dir=synthetic_dir, statistics=statistics, **kw)  # noqa: E731
    assert take(load("test", img_size=60), 1)[0]["image"].shape == (48, 60, 60, 7)
    assert take(load("test", img_size=32, resize_mode="resize"), 1)[0]["image"].shape == (48, 32, 32, 7)
    clipped = take(load("test", clip=(8000, 9000)), 1)[0]["image"] * np.array(statistics.std) + statistics.mean
    assert clipped.min() > 7999 and clipped.max() < 9001
    parts = [take(load("train", train=True, batch_size=32, process_index=p, process_count=2), 3) for p in (0, 1)]
    assert parts[0][0]["image"].shape[0] == 16
    ids = [{i for batch in part for i in batch["id"]} for part in parts]
    assert len(ids[0]) == len(ids[1]) == 48 and not ids[0] & ids[1]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(resize_mode="zoom"), "resize_mode = 'zoom'"),
        (dict(batch_size=200, train=True), "96 examples"),
        (dict(batch_size=15, process_count=2), "15 does not divide"),
        (dict(hour="local"), "hour = 'local'"),
        (dict(statistics=None), "no published statistics of 'synthetic_landsat'"),
    ],
)
def test_bad_options_are_named(synthetic_dir, statistics, options, message):
    with pytest.raises(ValueError, match=message):
        data.load("synthetic_landsat/small", "train", data_dir=synthetic_dir, **{"statistics": statistics, **options})


def test_unprepared_and_unknown_datasets(tmp_path):
    with pytest.raises(data.DatasetNotPreparedError, match="geomoe.cli.prepare --dataset eurosat_landsat"):
        data.builder("eurosat_landsat", tmp_path)
    with pytest.raises(ValueError, match="unknown dataset 'mnist'"):
        data.builder("mnist", tmp_path)


def test_published_statistics_are_the_default_where_there_are_any(tmp_path):
    source = make_bigearthnet(tmp_path / "source", [NAME.format(4, 0)])
    builder = BigearthnetLandsat(source=source, data_dir=tmp_path / "data")
    builder.download_and_prepare()
    batch = next(data.load(builder, "train").as_numpy_iterator())
    mean, std = (np.array(landsat.STATISTICS["bigearthnet_landsat"][k]) for k in ("mean", "std"))
    np.testing.assert_allclose(batch["image"][0], (pixels(seed=0)[0:40, 1:41] - mean) / std, atol=1e-4)


def test_prepare_command(tmp_path):
    source = make_bigearthnet(tmp_path / "source", [NAME.format(5, i) for i in range(3)])
    (source / "labels" / f"{NAME.format(5, 1)}_labels_metadata.json").unlink()

    def prepare(*args):
        command = [sys.executable, "-m", "geomoe.cli.prepare", "--dataset", "bigearthnet_landsat", *args]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    common = ["--source", str(source), "--data_dir", str(tmp_path / "data"), "--workers", "1"]
    strict = prepare(*common, "--strict")
    assert strict.returncode == 1 and "missing label" in strict.stderr and "Traceback" not in strict.stderr
    done = prepare(*common, "--statistics")
    assert done.returncode == 0, done.stderr
    assert "2 of 3 patches" in done.stderr and "missing label" in done.stderr and "skipped.csv" in done.stderr.replace("\n", "")
    assert len(json.loads(done.stdout)["mean"]) == 7
    absent = prepare("--source", str(tmp_path / "none"), "--data_dir", str(tmp_path / "d"))
    assert absent.returncode == 1 and "none" in absent.stderr and "Traceback" not in absent.stderr


def test_time_in_names():
    assert str(metadata.time_from_name("LC08_L2SP_192026_20200518_20200820_02_T1")) == "2020-05-18T00:00:00"
    assert str(metadata.time_from_name("LC80200392015216LGN00_B1")) == "2015-08-04T00:00:00"
    assert metadata.time_from_name("forest_12") is None
    with pytest.raises(ValueError):
        metadata.time_from_name("S2A_MSIL2A_20171302T094031_1_1")


def test_nomenclatures():
    assert len(landsat.BIGEARTHNET_CLASSES_19) == 19 and len(set(landsat.BIGEARTHNET_CLASSES_43)) == 43
    assert set(landsat.CORINE_TO_19) | set(landsat.BIGEARTHNET_DROPPED) == set(landsat.BIGEARTHNET_CLASSES_43)


def test_config_counts_of_the_embedded_default():
    assert SyntheticConfig(name="covers").counts == {"train": 4096, "val": 1024, "test": 1024}

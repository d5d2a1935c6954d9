"""The builders: each layout, every flaw of real data, and the command that prepares."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pyproj
import pytest
import rasterio
from conftest import ROOT
from geotiffs import BIGEARTHNET_ID, pixels, write_bigearthnet, write_scene, write_tif

from geomoe import data, landsat
from geomoe.data import synthetic
from geomoe.data.builders import (
    BigearthnetLandsat,
    EurosatLandsat,
    LandsatFolder,
    LandsatScene,
    SyntheticConfig,
    SyntheticLandsat,
    landsat_scene,
    read_skipped,
)
from geomoe.data.geotiff import PatchError
from geomoe.data.preprocess import InputSpec

RAW = landsat.Statistics((0,) * 7, (1,) * 7, "none")


def prepared(builder):
    builder.download_and_prepare()
    return builder


def counts(builder):
    return {name: info.num_examples for name, info in builder.info.splits.items()}


def examples(builder, split="train"):
    return {e["id"].decode(): e for e in builder.as_dataset(split).as_numpy_iterator()}


def test_bigearthnet_with_every_flaw(tmp_path):
    ids = [BIGEARTHNET_ID.format(1, i) for i in range(12)]
    source = write_bigearthnet(tmp_path / "source", ids)
    label = lambda i: source / "labels" / f"{ids[i]}_labels_metadata.json"
    label(0).unlink()
    label(1).write_text("{broken")
    label(2).write_text(json.dumps({"labels": ["Pastures"], "acquisition_date": "yesterday"}))
    label(3).write_text(json.dumps({"labels": ["Moon dust"], "acquisition_date": "2017-06-13 10:10:31"}))
    (source / "images" / f"{ids[4]}.tif").unlink()
    write_tif(source / "images" / f"{ids[5]}.tif", pixels() * 0)
    (source / "bigearthnet-train.csv").write_text("id,x\n" + "\n".join(f"{i},1" for i in [*ids[:9], ids[8]]) + "\n")
    (source / "bigearthnet-val.csv").write_text("\n".join(ids[9:]) + "\n")
    builder = prepared(BigearthnetLandsat(source=source, data_dir=tmp_path / "data"))
    assert counts(builder) == {"train": 3, "val": 3}
    assert sorted(examples(builder)) == sorted(ids[6:9])
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
    assert "'yesterday'" in skipped["bad time stamp"].message
    for patch_id, example in examples(builder, "val").items():
        np.testing.assert_array_equal(example["image"], pixels(seed=ids.index(patch_id)))
        assert example["time"] == b"2017-06-13T10:10:31"
        assert [landsat.BIGEARTHNET_CLASSES_19[k] for k in example["labels"]] == ["Pastures"]
    fine = prepared(BigearthnetLandsat(source=source, data_dir=tmp_path / "data", config="43"))
    labels = [[landsat.BIGEARTHNET_CLASSES_43[k] for k in example["labels"]] for example in examples(fine, "val").values()]
    assert labels == [["Airports", "Pastures"]] * 3
    with pytest.raises(PatchError, match="duplicate id"):
        prepared(BigearthnetLandsat(source=source, data_dir=tmp_path / "strict", strict=True))


def test_strict_stops_at_the_first_flaw_and_keep_nodata_keeps(tmp_path):
    ids = [BIGEARTHNET_ID.format(6, i) for i in range(3)]
    source = write_bigearthnet(tmp_path / "source", ids)
    write_tif(source / "images" / f"{ids[1]}.tif", pixels() * 0)
    with pytest.raises(PatchError, match="all nodata"):
        prepared(BigearthnetLandsat(source=source, data_dir=tmp_path / "strict", strict=True))
    assert counts(prepared(BigearthnetLandsat(source=source, data_dir=tmp_path / "a"))) == {"train": 2}
    kept = prepared(BigearthnetLandsat(source=source, data_dir=tmp_path / "b", keep_nodata=True))
    assert counts(kept) == {"train": 3} and not examples(kept)[ids[1]]["image"].any()
    assert not read_skipped(kept.data_dir)


def test_bigearthnet_times_by_the_label_else_by_the_name(tmp_path):
    ids = [BIGEARTHNET_ID.format(7, 0), BIGEARTHNET_ID.format(7, 1), "no_date"]
    source = write_bigearthnet(tmp_path / "source", ids)
    for patch_id, content in zip(ids, ({"acquisition_date": "2018-01-02 03:04:05"}, {}, {})):
        (source / "labels" / f"{patch_id}_labels_metadata.json").write_text(json.dumps({"labels": ["Pastures"], **content}))
    builder = prepared(BigearthnetLandsat(source=source, data_dir=tmp_path))
    times = {patch_id: example["time"].decode() for patch_id, example in examples(builder).items()}
    assert times == {ids[0]: "2018-01-02T03:04:05", ids[1]: "2017-06-13T10:10:31"}
    assert [(row.id, row.kind) for row in read_skipped(builder.data_dir)] == [("no_date", "bad time stamp")]


def test_the_real_sample(shared, tmp_path):
    """199 of 200 patches have labels; one of those is without any data and is left out unless asked for."""
    numbers = np.array([18, 6, 69, 8, 29, 33, 45, 9, 54, 75, 71, 4, 4, 53, 0, 11, 0, 30, 39])  # as its README counts them
    builder = prepared(BigearthnetLandsat(source=shared / "landsat_sample", data_dir=tmp_path / "all", keep_nodata=True))
    assert counts(builder) == {"train": 199}
    assert [row.kind for row in read_skipped(builder.data_dir)] == ["missing label"]
    labels = np.concatenate([batch["labels"] for batch in data.load(builder, "train").as_numpy_iterator()])
    np.testing.assert_array_equal(labels.sum(axis=0), numbers)
    hours = [example["time"][11:13] for example in examples(builder).values()]
    assert {int(h) for h in hours} <= {9, 10, 11}  # the short stamps too
    builder = prepared(BigearthnetLandsat(source=shared / "landsat_sample", data_dir=tmp_path / "some"))
    assert sorted(row.kind for row in read_skipped(builder.data_dir)) == ["all nodata", "missing label"]


def test_eurosat(tmp_path):
    source = tmp_path / "source"
    for i, name in enumerate(["Forest_1", "SeaLake_7", "Forest_2"]):
        write_tif(source / name.split("_")[0] / f"{name}.tif", pixels(8, (22, 22), seed=i))
    (source / "eurosat-train.txt").write_text("Forest_1.tif\nSeaLake/SeaLake_7.tif\n")
    (source / "eurosat-test.txt").write_text("Forest_2\nForest_9\nMoon_1\n")
    builder = prepared(EurosatLandsat(source=source, data_dir=tmp_path / "data"))
    assert counts(builder) == {"train": 2, "test": 1}
    assert sorted(row.kind for row in read_skipped(builder.data_dir)) == ["missing image", "unknown class"]
    train = examples(builder)
    # Alphabetical: AnnualCrop, Forest, ..., SeaLake the tenth.
    assert {name: example["labels"].tolist() for name, example in train.items()} == {"Forest_1": [1], "SeaLake_7": [9]}
    np.testing.assert_array_equal(train["SeaLake_7"]["image"], pixels(8, (22, 22), seed=1)[..., :7])
    batch = next(data.load(builder, "test", resize_mode="resize").as_numpy_iterator())
    assert batch["image"].shape == (1, 40, 40, 7) and batch["labels"].argmax() == 1
    assert batch["time"][0] == b"unknown" and not batch["week"].any() and batch["lat"].any()


def test_a_folder_of_landsat_7(tmp_path):
    """Six bands become seven: the coastal one has the blue one's z-score under the published statistics."""
    image = np.random.default_rng(0).integers(7000, 15000, (40, 40, 6)).astype(np.uint16)
    image[:3, :3] = 0
    write_tif(tmp_path / "in" / "a.tif", image)
    with pytest.raises(ValueError, match="1 wrong band count.*skipped.csv"):
        prepared(LandsatFolder(source=tmp_path / "in", data_dir=tmp_path / "no"))
    builder = prepared(LandsatFolder(source=tmp_path / "in", data_dir=tmp_path / "out", sensor="landsat7"))
    published = landsat.Statistics.published("bigearthnet_landsat")
    batch = next(data.load(builder, "train", statistics=published).as_numpy_iterator())
    z, valid = batch["image"][0], batch["valid"][0]
    assert valid.sum() == 40 * 40 - 9
    np.testing.assert_allclose(z[valid][:, 0], z[valid][:, 1], atol=2e-4)
    expected = (image[20, 20] - np.array(published.mean[1:])) / np.array(published.std[1:])
    np.testing.assert_allclose(z[20, 20, 1:], expected, atol=1e-4)
    backwards, names = image[..., ::-1], ("SR_B7", "SR_B5", "SR_B4", "SR_B3", "SR_B2", "SR_B1")
    stamped = "LE07_L2SP_190025_20020518_20200916_02_T1"  # which says the sensor whose numbers the names are
    for folder, name, options in (("given", "b", {"sensor": "landsat7"}), ("named", stamped, {})):
        write_tif(tmp_path / folder / f"{name}.tif", backwards)
        named = LandsatFolder(source=tmp_path / folder, data_dir=tmp_path / f"{folder}_out", bands=names, **options)
        np.testing.assert_array_equal(examples(prepared(named))[name]["image"], examples(builder)["a"]["image"])
    with pytest.raises(ValueError, match="sensor = 'spot'"):
        LandsatFolder(data_dir=tmp_path / "out", sensor="spot")


@pytest.mark.parametrize(
    ("options", "numbers", "reflectance"),
    [
        (dict(unit="reflectance"), lambda rng: rng.uniform(0.01, 0.6, (40, 40, 7)).astype(np.float32), lambda x: x),
        (dict(unit="hls"), lambda rng: rng.integers(100, 6000, (40, 40, 7)).astype(np.int16), lambda x: x * 1e-4),
        (
            dict(unit="uint8", uint8_range=(0.0, 0.4)),
            lambda rng: rng.integers(1, 256, (40, 40, 7)).astype(np.uint8),
            lambda x: (x - 1.0) * 0.4 / 254,
        ),
        (
            dict(unit="level1_dn", sun_elevation=30.0),
            lambda rng: rng.integers(6000, 20000, (40, 40, 7)).astype(np.uint16),
            lambda x: (x * 2.0e-5 - 0.1) / 0.5,
        ),
        (
            dict(unit="reflectance", bands=["swir2", "ST_B10", "red", "green", "blue", "coastal", "nir", "swir1"]),
            lambda rng: rng.uniform(0.01, 0.6, (40, 40, 8)).astype(np.float32),
            lambda x: x[..., [5, 4, 3, 2, 6, 7, 0]],
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_folder_of_other_numbers(tmp_path, options, numbers, reflectance):
    """What is no Collection 2 is brought to its digital numbers: DN = (reflectance + 0.2) / 0.0000275."""
    image = numbers(np.random.default_rng(0))
    write_tif(tmp_path / "in" / "a.tif", image)
    if options["unit"] != "level1_dn":  # whose type is Collection 2's as well
        with pytest.raises(ValueError, match="1 wrong"):
            prepared(LandsatFolder(source=tmp_path / "in", data_dir=tmp_path / "no"))
    builder = prepared(LandsatFolder(source=tmp_path / "in", data_dir=tmp_path / "out", **options))
    np.testing.assert_allclose(examples(builder)["a"]["image"], (reflectance(image) + 0.2) / 2.75e-5, atol=0.6)


def test_a_folder_of_level_1_of_a_sensor_whose_factors_are_not_known(tmp_path):
    write_tif(tmp_path / "in" / "LT05_L1TP_224063_19880814_20170101_01_T1.tif", pixels(6))
    with pytest.raises(ValueError, match="1 wrong unit") as error:
        prepared(LandsatFolder(source=tmp_path / "in", data_dir=tmp_path / "out", unit="level1_dn", sun_elevation=50.0))
    skipped = pathlib.Path(re.search(r"see (\S+)", str(error.value))[1]).read_text()
    assert "level-1 numbers of landsat5 have factors of each band's own" in skipped


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_folder_with_a_table(tmp_path):
    source = tmp_path / "source"
    write_tif(source / "a" / "one.tif", pixels(seed=1))
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write_tif(source / "two.tif", pixels(seed=2), crs=None)
    for i, name in enumerate(("three.TIF", "late.tif", "lost.tif", "far.tif")):
        write_tif(source / name, pixels(seed=3 + i))
    table = write_table(
        tmp_path / "labels.csv",
        [
            ["id", "labels", "latitude", "longitude", "time", "split"],
            ["one.tif", "field;forest", "", "", "2020-02-03T04:05:06Z", ""],
            ["two", "forest", "-10.5", "170.25", "", "test"],
            ["late", "field", "", "", "2020-13-01", ""],
            ["lost", "field", "north", "", "", ""],
            ["far", "field", "91", "0", "", ""],
            ["ghost", "field", "", "", "", ""],
        ],
    )
    builder = prepared(LandsatFolder(source=source, labels=table, data_dir=tmp_path / "data", config="mixed"))
    assert builder.info.features["labels"].feature.names == ["field", "forest"]
    assert sorted((row.kind, row.id) for row in read_skipped(builder.data_dir)) == [
        ("bad coordinates", "far"),
        ("bad coordinates", "lost"),
        ("bad time stamp", "late"),
        ("missing image", "ghost"),
        ("missing label", "three"),
    ]
    load = lambda split: next(
        data.load("landsat_folder/mixed", split, data_dir=tmp_path / "data", statistics=RAW).as_numpy_iterator()
    )
    train, test = load("train"), load("test")
    np.testing.assert_array_equal(train["labels"], [[1, 1]])
    assert train["time"][0] == b"2020-02-03T04:05:06"
    np.testing.assert_array_equal(test["labels"], [[0, 1]])
    assert (test["latitude"][0], test["longitude"][0]) == (-10.5, 170.25)
    assert builder.info.metadata["task"] == "multilabel"


def labelled(tmp_path, text, files=("p1", "p2", "p3"), name="x"):
    """What a table makes of a folder: task, classes of each patch, and the patches that were skipped."""
    for i, file in enumerate(files):
        write_tif(tmp_path / "in" / f"{file}.tif", pixels(seed=i))
    (tmp_path / "t.csv").write_text(text)
    builder = prepared(
        LandsatFolder(source=tmp_path / "in", labels=tmp_path / "t.csv", config=name, data_dir=tmp_path / "data")
    )
    names = builder.info.features["labels"].feature.names
    found = {
        key: [names[k] for k in e["labels"]] for split in builder.info.splits for key, e in examples(builder, split).items()
    }
    return builder.info.metadata["task"], found, [(row.kind, row.id) for row in read_skipped(builder.data_dir)]


def test_a_label_is_one_class_and_a_missing_one_is_counted(tmp_path):
    found = labelled(tmp_path, "id,label\np1,Water; deep\np2,nan\np3,\n")
    assert found == ("multiclass", {"p1": ["Water; deep"]}, [("missing label", "p2"), ("missing label", "p3")])
    found = labelled(tmp_path, "id,labels\np1,a;b; NA\np2,b\np3,NA\n", name="y")
    assert found == ("multilabel", {"p1": ["a", "b"], "p2": ["b"]}, [("missing label", "p3")])
    found = labelled(tmp_path, "id,label,time\np1,,2020-01-01\np2,NA,\np3,,\n", name="z")  # a table of times alone
    assert found == ("none", {"p1": [], "p2": [], "p3": []}, [])


def test_patches_of_one_name_in_folders_of_classes(tmp_path):
    files = [f"{folder}/{i}" for folder in ("Forest", "River [old]") for i in range(2)]
    text = "id,label\n" + "".join(f"{file.replace('/', chr(92))}.TIF,{file.split('/')[0]}\n" for file in files)
    task, found, skipped = labelled(tmp_path, text, files)
    assert found == {file: [file.split("/")[0]] for file in files} and not skipped
    absolute = f"id,label\n{tmp_path}/in/Forest/0.tif,a\n1,b\n"
    with pytest.raises(ValueError, match=r"t.csv, line 3: '1' names 2 files"):
        labelled(tmp_path, absolute, files, "absolute")
    task, found, skipped = labelled(tmp_path, absolute.replace("\n1,", "\nForest/1,"), files, "absolute")
    assert found == {"Forest/0": ["a"], "Forest/1": ["b"]} and [kind for kind, _ in skipped] == ["missing label"] * 2
    for text, message in (
        ("id,label\nForest/0,a\n../in/Forest/1,b\n", "line 3: .* leads out of the folder"),
        ("id,label\nForest/0,a\nForest/0.tif,b\n", "line 3: 'Forest/0' has other values here than in .*line 2"),
        ("id,label\nq1,a\nq2,b\n", "none of the 4 GeoTIFFs of .*/in has a row in .*t.csv: its ids are as 'q1', .*'Forest/0'"),
    ):
        with pytest.raises(ValueError, match=message):
            labelled(tmp_path, text, files, "flawed")


def test_names_that_are_no_text_and_endings_in_any_case(tmp_path):
    ids = [BIGEARTHNET_ID.format(9, 1), BIGEARTHNET_ID.format(9, 2)]
    source = write_bigearthnet(tmp_path / "big", ids)
    (source / "images" / f"{ids[1]}.tif").rename(source / "images" / f"{ids[1]}.TIF")
    (source / "bigearthnet-train.csv").write_text("\n".join(ids))
    assert sorted(examples(prepared(BigearthnetLandsat(source=source, data_dir=tmp_path)))) == ids
    write_tif(tmp_path / "euro" / "Forest" / "Forest_1.Tif", pixels(8))
    assert list(examples(prepared(EurosatLandsat(source=tmp_path / "euro", data_dir=tmp_path)))) == ["Forest_1"]
    write_tif(tmp_path / "in" / "x.tif", pixels())
    (tmp_path / "in" / "x.tif").rename(tmp_path / "in" / os.fsdecode(b"Z\xfcrich.TIFF"))
    (tmp_path / "in" / os.fsdecode(b"\xff.tif")).write_bytes(b"no")
    builder = prepared(LandsatFolder(source=tmp_path / "in", data_dir=tmp_path))
    assert list(examples(builder)) == [r"Z\xfcrich"]
    assert [(row.kind, row.id) for row in read_skipped(builder.data_dir)] == [("unreadable image", r"\xff")]


def test_times_of_a_folder_by_table_then_name_then_tag(tmp_path):
    tags = {"TIFFTAG_DATETIME": "2021:03:04 05:06:07"}
    stamped = BIGEARTHNET_ID.format(1, 1)
    for name in ("table", stamped, "tagged", "bare", "zeros"):
        given = {"bare": {}, "zeros": {"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}}.get(name, tags)
        write_tif(tmp_path / "in" / f"{name}.tif", pixels(), tags=given)
    table = write_table(
        tmp_path / "t.csv",
        [["id", "time"], ["table", "2020-01-02 03:04:05"], [stamped, ""], ["tagged", ""], ["bare", ""], ["zeros", ""]],
    )
    expected = {
        "table": "2020-01-02T03:04:05",
        stamped: "2017-06-13T10:10:31",
        "tagged": "2021-03-04T05:06:07",
        "bare": "unknown",
        "zeros": "unknown",
    }
    builder = prepared(LandsatFolder(source=tmp_path / "in", labels=table, data_dir=tmp_path))
    assert {name: example["time"].decode() for name, example in examples(builder).items()} == expected
    write_tif(tmp_path / "bad" / "a.tif", pixels(), tags={"TIFFTAG_DATETIME": "2021:13:45 00:00:00"})
    with pytest.raises(ValueError, match="1 bad time stamp"):
        prepared(LandsatFolder(source=tmp_path / "bad", data_dir=tmp_path / "bad_out"))


MTL = 'PROCESSING_LEVEL = "L1TP"\nDATE_ACQUIRED = 2020-05-18\nSCENE_CENTER_TIME = "09:41:02Z"\nSUN_ELEVATION = 50.0\n'


def test_scenes_are_cut_into_patches(tmp_path):
    """Side by side, each at its location, in Collection 2's numbers; windows under clouds or without data are skipped."""
    stem = "LC08_L1TP_190025_20200518_20200820_01_T1"
    ground = np.random.default_rng(0).integers(6000, 20000, (100, 120, 7)).astype(np.uint16)  # 20 rows are left over
    ground[:40, :40] = 0
    cloudy = np.zeros((100, 120), int)
    cloudy[40:80, 40:80] = 1 << 3
    cloudy[:20, 40:80] = 1 << 3  # half of a window, which is no more than the limit
    folder = write_scene(tmp_path / "scenes" / "one", stem, ground, qa=cloudy, mtl=MTL)
    with pytest.raises(ValueError, match="unit='collection2_dn' was given, but by its name and metadata it is 'level1_dn'"):
        prepared(LandsatScene(source=folder, data_dir=tmp_path / "no", unit="collection2_dn"))
    for source in (folder, tmp_path / "scenes"):
        builder = prepared(LandsatScene(source=source, data_dir=tmp_path / source.name, unit="level1_dn", side=40))
        assert sorted((row.kind, row.id[-5:]) for row in read_skipped(builder.data_dir)) == [
            ("all nodata", "1_0_0"),
            ("clouds", "40_40"),
        ]
        batch = next(data.load(builder, "train", statistics=RAW).as_numpy_iterator())
        assert len(batch["id"]) == 2 * 3 - 2
        at = batch["id"].tolist().index(f"{stem}_40_80".encode())
        reflectance = (ground[40:80, 80:120] * 2.0e-5 - 0.1) / np.sin(np.radians(50.0))
        np.testing.assert_allclose(batch["image"][at], (reflectance + 0.2) / 0.0000275, atol=0.6)
        east, north = 500000 + 30 * 100, 5300000 - 30 * 60
        longitude, latitude = pyproj.Transformer.from_crs(32633, 4326, always_xy=True).transform(east, north)
        np.testing.assert_allclose([batch["latitude"][at], batch["longitude"][at]], [latitude, longitude], atol=1e-5)
        assert batch["time"][at] == b"2020-05-18T09:41:02"
    kept = LandsatScene(source=folder, data_dir=tmp_path / "kept", unit="level1_dn", side=40, max_cloud=1.0, keep_nodata=True)
    assert counts(prepared(kept)) == {"train": 6}
    few = prepared(LandsatScene(source=folder, data_dir=tmp_path / "few", unit="level1_dn", side=40, max_cloud=0.4))
    assert counts(few) == {"train": 3}
    some = dict(source=folder, unit="level1_dn", side=40, max_cloud=1.0, keep_nodata=True)
    shifted = prepared(LandsatScene(**some, data_dir=tmp_path / "shifted", stride=20, rows=(20, 80)))
    ids = [i.decode() for i in next(data.load(shifted, "train", statistics=RAW).as_numpy_iterator())["id"]]
    assert sorted(ids) == sorted(f"{stem}_{row}_{column}" for row in (20, 40) for column in (0, 20, 40, 60, 80))
    with pytest.raises(FileNotFoundError, match="there is no scene"):
        prepared(LandsatScene(source=tmp_path / "nowhere", data_dir=tmp_path / "no"))
    for options in (dict(side=0), dict(stride=0), dict(rows=(8, 4)), dict(max_cloud=2.0), dict(unit="dn")):
        with pytest.raises(ValueError, match=next(iter(options))):
            LandsatScene(data_dir=tmp_path, **options)


def test_a_scene_that_cannot_be_opened_does_not_stop_the_others(tmp_path):
    write_tif(tmp_path / "in" / "good.tif", pixels(size=(48, 100)))
    (tmp_path / "in" / "broken.tif").write_bytes(b"II*\0 and no more")
    builder = prepared(LandsatScene(source=tmp_path / "in", data_dir=tmp_path / "data"))
    assert counts(builder) == {"train": 2}
    (row,) = read_skipped(builder.data_dir)
    assert (row.kind, row.id) == ("unusable scene", "broken.tif") and "broken.tif" in row.message
    with pytest.raises(ValueError, match="broken.tif"):
        prepared(LandsatScene(source=tmp_path / "in" / "broken.tif", data_dir=tmp_path / "alone"))


def test_a_scene_whose_bands_and_range_are_given(tmp_path):
    image = np.random.default_rng(0).integers(1, 256, (48, 48, 6)).astype(np.uint8)
    path = write_tif(tmp_path / "in" / "scene.tif", image)
    options = dict(
        unit="uint8", sensor="landsat7", bands=["swir2", "swir1", "nir", "red", "green", "blue"], uint8_range=(0, 0.5)
    )
    builder = prepared(LandsatScene(source=path, data_dir=tmp_path / "data", **options))
    expected = ((image[..., ::-1] - 1.0) * 0.5 / 254 + 0.2) / 2.75e-5
    np.testing.assert_allclose(examples(builder)["scene_0_0"]["image"][..., 1:], expected, atol=0.6)


def test_a_scene_that_has_changed_is_opened_anew(tmp_path):
    import os

    first, second = (pixels(size=(40, 40), seed=seed) for seed in (0, 1))
    path = write_tif(tmp_path / "scene.tif", first)
    reader, spec = landsat_scene._open(str(path), InputSpec())
    assert landsat_scene._open(str(path), InputSpec())[0] is reader and spec.unit == "collection2_dn"
    write_tif(path, second)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(landsat_scene._open(str(path), InputSpec())[0].read(0, 0, 40, 40), second)


def test_synthetic_patches_and_their_labels(tmp_path):
    assert SyntheticConfig(name="covers").counts == {"train": 4096, "val": 1024, "test": 1024}
    for dominant in (False, True):
        config = SyntheticConfig(name=f"d{dominant}", seed=3, counts={"train": 5}, dominant=dominant)
        builder = prepared(SyntheticLandsat(config=config, data_dir=tmp_path))
        for name, example in examples(builder).items():
            scene = synthetic.scene(3, "train", int(name[-6:]))
            np.testing.assert_array_equal(example["image"], scene.image)
            assert example["labels"].tolist() == ([scene.dominant] if dominant else scene.labels)


@pytest.mark.long
def test_the_command(tmp_path):
    source = write_bigearthnet(tmp_path / "source", [BIGEARTHNET_ID.format(5, i) for i in range(3)])
    (source / "labels" / f"{BIGEARTHNET_ID.format(5, 1)}_labels_metadata.json").unlink()

    def prepare(*args):
        command = [sys.executable, "-m", "geomoe.cli.prepare", "--dataset", "bigearthnet_landsat", *args]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    common = ["--source", str(source), "--data_dir", str(tmp_path / "data"), "--workers", "1"]
    strict = prepare(*common, "--strict")
    assert strict.returncode == 1 and "missing label" in strict.stderr and "Traceback" not in strict.stderr
    done = prepare(*common, "--statistics")
    assert done.returncode == 0, done.stderr
    assert "2 of 3 patches" in done.stderr and "missing label" in done.stderr and "skipped.csv" in done.stderr.replace("\n", "")
    linear = json.loads(done.stdout)
    assert len(linear["mean"]) == 7 and "scale" not in linear
    alone = prepare("--data_dir", str(tmp_path / "data"), "--statistics", "--scale", "log")
    (path,) = (tmp_path / "data").rglob("statistics.json")
    written = json.loads(path.read_text())
    assert json.loads(alone.stdout) == written and written["scale"] == "log" and max(written["mean"]) < 0, alone.stderr
    no_use = prepare("--data_dir", str(tmp_path / "data"), "--source", str(source), "--scale", "log")
    assert no_use.returncode == 1 and "--scale log is of --statistics" in no_use.stderr
    absent = prepare("--source", str(tmp_path / "none"), "--data_dir", str(tmp_path / "d"))
    assert absent.returncode == 1 and "none" in absent.stderr and "Traceback" not in absent.stderr


def test_a_band_file_that_was_replaced_in_place_is_a_change(tmp_path):
    """The folder's own time of modification does not change with it."""
    scene = write_scene(tmp_path / "in" / "LC08_L2SP_191028_20200518_20200820_02_T1", "s", pixels(size=(80, 80)), prefix="SR_B")
    options = dict(source=tmp_path / "in", data_dir=tmp_path / "out", unit="collection2_dn")
    builder = prepared(LandsatScene(**options))
    assert not builder.source_has_changed()
    (scene / "s_B4.TIF.aux.xml").write_text("<PAMDataset/>")  # as by looking at it
    assert not LandsatScene(**options).source_has_changed()
    band = next(scene.glob("*B4.TIF"))
    before, times = scene.stat().st_mtime_ns, band.stat()
    with open(band, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(band, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    assert scene.stat().st_mtime_ns == before and LandsatScene(**options).source_has_changed()


def test_the_place_of_the_table_goes_before_the_files(tmp_path):
    for i in range(2):
        write_tif(tmp_path / "in" / f"a{i}.tif", pixels(seed=i))
    (tmp_path / "t.csv").write_text("id,latitude,longitude\na0,10.5,20.5\na1,10.5,20.5\n")
    builder = prepared(LandsatFolder(source=tmp_path / "in", labels=tmp_path / "t.csv", data_dir=tmp_path / "d"))
    assert {(e["latitude"].item(), e["longitude"].item()) for e in examples(builder).values()} == {(10.5, 20.5)}

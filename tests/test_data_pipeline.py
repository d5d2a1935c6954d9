"""Batches: what they hold, their order, and where they go on."""

import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import on_scale
from geotiffs import BIGEARTHNET_ID, pixels, write_bigearthnet, write_tif

from geomoe import data, metadata
from geomoe.data import pipeline, synthetic
from geomoe.data.builders import BigearthnetLandsat, EurosatLandsat, LandsatFolder
from geomoe.data.tensorflow_setup import tf
from geomoe.landsat import STATISTICS, Statistics

NAME = "synthetic_landsat/small"
RAW = Statistics((0.0,) * 7, (1.0,) * 7, "none")


@pytest.fixture(scope="module")
def statistics(synthetic_dir):
    return data.compute_statistics(NAME, "train", synthetic_dir)


@pytest.fixture(scope="module")
def batches(synthetic_dir, statistics):
    """A function of a number of batches and the options of `load` to these batches."""

    def take(count, split="train", name=NAME, **options):
        loaded = data.load(name, split, data_dir=synthetic_dir, **{"statistics": statistics, **options})
        return list(loaded.take(count).as_numpy_iterator())

    return take


def test_statistics_are_those_of_the_valid_pixels(statistics, synthetic_dir):
    images = [synthetic.scene(0, "train", i).image for i in range(96)]
    valid = np.concatenate([im[(im != 0).all(axis=-1)] for im in images]).astype(np.float64)
    np.testing.assert_allclose(statistics.mean, valid.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(statistics.std, valid.std(axis=0), rtol=1e-6)
    assert statistics.source == "computed:synthetic_landsat/small/1.0.0:train"
    of_log = data.compute_statistics(NAME, "train", synthetic_dir, scale="log")
    np.testing.assert_allclose(of_log.mean, on_scale(valid, "log").mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(of_log.std, on_scale(valid, "log").std(axis=0), rtol=1e-6)
    assert (of_log.scale, statistics.scale) == ("log", "linear")


def test_a_pass_holds_every_patch_once_with_all_that_belongs_to_it(batches, statistics):
    passed = batches(-1, "test", batch_size=20)
    assert [len(batch["id"]) for batch in passed] == [20, 20, 8]  # the last, smaller batch included
    rows = {i.decode(): {k: v[n] for k, v in batch.items()} for batch in passed for n, i in enumerate(batch["id"])}
    assert set(rows) == {f"synthetic_0_test_{i:06d}" for i in range(48)}
    for i in range(48):
        scene, row = synthetic.scene(0, "test", i), rows[f"synthetic_0_test_{i:06d}"]
        z = (scene.image[2:42, 2:42].astype(np.float64) - statistics.mean) / statistics.std
        np.testing.assert_allclose(row["image"], z, atol=1e-4)
        np.testing.assert_array_equal(np.flatnonzero(row["labels"]), scene.labels)
        np.testing.assert_array_equal(row["valid"], (scene.image[2:42, 2:42] != 0).all(axis=-1))
        week = scene.time.astype("datetime64[D]").item().isocalendar().week
        angles = [2 * np.pi * week / 52, 2 * np.pi * scene.time.item().hour / 24]
        angles += list(np.radians([scene.latitude, scene.longitude]))
        expected = np.stack([np.sin(angles), np.cos(angles)], axis=1)
        np.testing.assert_allclose(row["metadata"], expected, atol=1e-6)
        for name, pair in zip(("week", "hour", "lat", "lon"), expected):
            np.testing.assert_allclose(row[name], pair, atol=1e-6)
        assert row["time"].decode() == str(scene.time) and row["latitude"] == np.float32(scene.latitude)
        assert row["longitude"] == np.float32(scene.longitude)


def test_one_label_of_many_classes(batches):
    (batch,) = batches(1, "test", "synthetic_landsat/small_dominant", batch_size=48)
    expected = [synthetic.scene(0, "test", int(i[-6:])).dominant for i in batch["id"]]
    np.testing.assert_array_equal(batch["labels"], np.eye(10, dtype=int)[expected])


TRAINING = dict(
    batch_size=16,
    train=True,
    resize_mode="random_crop",
    augment=data.Augment(flips=True, rot90=True, metadata_dropout=0.3, coastal_dropout=0.2, band_jitter=0.1),
    seed=5,
    views=2,
)


def test_training_goes_on_from_any_batch(batches):
    whole = batches(15, **TRAINING)  # 6 batches an epoch
    for start in (1, 4, 6, 13):
        rest = batches(4, start_batch=start, cache=True, **TRAINING)  # from 4 into the next epoch
        for a, b in zip(whole[start:], rest):
            for key in a:
                np.testing.assert_array_equal(a[key], b[key], err_msg=f"{key} from {start}")
    passed = batches(-1, "test", batch_size=20, start_batch=2)
    assert [len(batch["id"]) for batch in passed] == [8]
    np.testing.assert_array_equal(passed[0]["image"], batches(-1, "test", batch_size=20)[2]["image"])


def test_epochs_hold_the_same_patches_in_another_order(batches):
    whole = batches(12, **TRAINING)
    ids = [[i for batch in whole[e : e + 6] for i in batch["id"]] for e in (0, 6)]
    assert sorted(ids[0]) == sorted(ids[1]) and len(set(ids[0])) == 96 and ids[0] != ids[1]
    other = batches(1, **{**TRAINING, "seed": 6})[0]
    assert other["id"].tolist() != whole[0]["id"].tolist()
    images = [{i: image for batch in whole[e : e + 6] for i, image in zip(batch["id"], batch["image"])} for e in (0, 6)]
    assert all((images[0][i] != images[1][i]).any() for i in images[0])  # another augmentation, too


def test_the_second_view_is_another_crop_and_augmentation(batches):
    """Without jitter and dropout both views hold pixels of the same patch, at other places or turned otherwise."""
    options = {**TRAINING, "augment": data.Augment(flips=True, rot90=True)}
    for batch in batches(3, **options):
        same = [np.array_equal(a, b) for a, b in zip(batch["image"], batch["second_view"])]
        assert np.mean(same) < 0.2
        for a, b in zip(batch["image"], batch["second_view"]):
            rows = [{tuple(pixel) for pixel in view.reshape(-1, 7).tolist()} for view in (a, b)]
            assert len(rows[0] & rows[1]) > 0.5 * len(rows[0])  # 36 x 36 pixels at least are common to two crops
    assert "second_view" not in batches(1, **{**options, "views": 1})[0]


def test_metadata_dropout_drops_metadata_and_coastal_dropout_the_coastal_band(batches):
    options = dict(batch_size=96, train=True, seed=1)
    fields = lambda batch: np.stack([batch[name] for name in metadata.FIELDS], axis=1)
    coastal = lambda batch: (batch["image"][..., 0] == batch["image"][..., 1]).all(axis=(1, 2))
    (batch,) = batches(1, augment=data.Augment(metadata_dropout=1.0), **options)
    assert not fields(batch).any() and batch["metadata"].any(axis=-1).all() and not coastal(batch).any()
    (batch,) = batches(1, augment=data.Augment(coastal_dropout=1.0), **options)
    np.testing.assert_array_equal(fields(batch), batch["metadata"])
    assert coastal(batch).all()
    (batch,) = batches(1, augment=data.Augment(metadata_dropout=0.5, coastal_dropout=0.2), **options)
    present = fields(batch).any(axis=-1)
    assert (np.abs(present.mean(axis=0) - 0.5) < 0.2).all() and 0.05 < coastal(batch).mean() < 0.4
    assert len(np.unique(present, axis=0)) > 10  # each of the four on its own
    np.testing.assert_array_equal(fields(batch)[present], batch["metadata"][present])


def test_random_metadata_are_of_any_place_and_time_and_what_is_dropped_of_them_is_unknown(batches):
    options = dict(batch_size=96, train=True, seed=1)
    fields = lambda batch: np.stack([batch[name] for name in metadata.FIELDS], axis=1)
    dropout = data.Augment(metadata_dropout=0.5)
    (plain,), drawn = (
        batches(1, augment=dropout, **options),
        batches(2, augment=data.Augment(metadata_dropout=0.5, random_metadata=0.4), **options),
    )
    replaced = (drawn[0]["metadata"] != plain["metadata"]).any(axis=(1, 2))
    assert 0.25 < replaced.mean() < 0.55
    for name in ("id", "image"):  # nothing else is drawn otherwise
        np.testing.assert_array_equal(drawn[0][name], plain[name])
    np.testing.assert_array_equal(fields(drawn[0])[~replaced], fields(plain)[~replaced])
    np.testing.assert_array_equal(drawn[0]["metadata"][replaced], fields(drawn[0])[replaced])
    np.testing.assert_array_equal(fields(drawn[0]).any(axis=-1), fields(plain).any(axis=-1))  # as many are dropped

    (all_drawn, other) = batches(2, augment=data.Augment(random_metadata=1.0), **options)
    pairs = all_drawn["metadata"]
    np.testing.assert_array_equal(fields(all_drawn), pairs)
    np.testing.assert_allclose(np.linalg.norm(pairs, axis=-1), 1, rtol=1e-5)
    angles = np.degrees(np.arctan2(pairs[..., 0], pairs[..., 1]))
    for name, limit in zip(metadata.FIELDS, (180, 180, 90, 180)):
        values = angles[:, metadata.FIELDS.index(name)]
        assert limit * 0.9 < np.abs(values).max() <= limit and abs(values.mean()) < limit * 0.25
        assert abs(np.abs(values).mean() - limit / 2) < limit * 0.1  # even
    assert np.abs(np.corrcoef(angles.T) - np.eye(4)).max() < 0.4 and (other["metadata"] != pairs).all()
    parts = batches(6, augment=data.Augment(random_metadata=1.0), **{**options, "batch_size": 32})  # two epochs
    assert len(np.unique(np.concatenate([part["metadata"] for part in parts]).reshape(192, 8), axis=0)) == 192
    halves = [
        batches(1, augment=data.Augment(random_metadata=1.0), batch_rows=rows, **options)[0] for rows in ((0, 48), (48, 96))
    ]
    np.testing.assert_array_equal(np.concatenate([half["metadata"] for half in halves]), pairs)


def test_sizes_clip_and_processes(batches, statistics):
    assert batches(1, "test", img_size=60)[0]["image"].shape == (48, 60, 60, 7)
    assert batches(1, "test", img_size=32, resize_mode="resize")[0]["image"].shape == (48, 32, 32, 7)
    clipped = statistics.unnormalize(batches(1, "test", clip=(8000, 9000))[0]["image"])
    assert 7999 < clipped.min() < 8001 and 8999 < clipped.max() < 9001
    augment = data.Augment(metadata_dropout=0.5)
    options = dict(batch_size=32, train=True, augment=augment, resize_mode="random_crop")
    whole = batches(3, **options)
    parts = [batches(3, **options, batch_rows=rows) for rows in ((0, 16), (16, 32))]
    for batch, *halves in zip(whole, *parts):  # each makes its half of the same batches, by the same draws
        for key in ("id", "image", "lat"):
            np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), batch[key])
    assert parts[0][0]["image"].shape[0] == 16 and len({i for batch in whole for i in batch["id"]}) == 96
    own = [batches(3, **options, process_index=p, process_count=2) for p in (0, 1)]
    ids = [{i for batch in part for i in batch["id"]} for part in own]
    assert own[0][0]["image"].shape[0] == 16 and len(ids[0]) == len(ids[1]) == 48 and not ids[0] & ids[1]
    dropped = [np.stack([~batch["lat"].any(axis=1) for batch in part]) for part in own]
    assert 0.2 < np.mean(dropped[0] == dropped[1]) < 0.8  # each has draws of its own


def test_options_are_a_value_that_keywords_change(batches, synthetic_dir, statistics):
    options = data.LoadOptions(data_dir=synthetic_dir, statistics=statistics, batch_size=7)
    batch = next(data.load(NAME, "test", options, img_size=20).as_numpy_iterator())
    assert batch["image"].shape == (7, 20, 20, 7)
    with pytest.raises(TypeError, match="zoom"):
        data.load(NAME, "test", options, zoom=2)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(resize_mode="zoom"), "resize_mode = 'zoom' is not one of centre_crop, resize, random_crop"),
        (dict(resize_mode="exact"), "resize_mode = 'exact'"),
        (dict(batch_size=200, train=True), "96 examples"),
        (dict(batch_size=15, process_count=2), "15 does not divide"),
        (dict(batch_rows=(0, 4)), r"batch_rows = \(0, 4\) must be rows of a batch of 128 in training"),
        (dict(hour="local"), "hour = 'local'"),
        (dict(views=2), "are for train=True"),
        (dict(resize_mode="random_crop"), "random_crop or random_resized_crop are for train=True"),
        (dict(clip=(12000, 7000)), r"clip = \(12000, 7000\) must be \(lowest, highest\)"),
        (dict(clip=(7000,)), r"clip = \(7000,\) must be"),
        (dict(hour="published"), "no time stamp in the patch name"),
        (dict(augment=data.Augment(flips=True)), "are for train=True"),
        (dict(statistics=None), "no published statistics of 'synthetic_landsat'"),
    ],
)
def test_bad_options_are_named(batches, options, message):
    with pytest.raises(ValueError, match=message):
        batches(1, **options)


def test_unprepared_and_unknown_datasets(tmp_path, synthetic_dir):
    with pytest.raises(data.DatasetNotPreparedError, match="geomoe.cli.prepare --dataset eurosat_landsat --source DIR"):
        data.builder("eurosat_landsat", tmp_path)
    with pytest.raises(data.DatasetNotPreparedError, match="prepare --dataset synthetic_landsat --data_dir"):
        data.builder("synthetic_landsat", tmp_path)
    with pytest.raises(ValueError, match="unknown dataset 'mnist'"):
        data.builder("mnist", tmp_path)
    with pytest.raises(ValueError, match="holds synthetic_landsat as small, small_dominant; name one"):
        data.builder("synthetic_landsat", synthetic_dir)
    with pytest.raises(ValueError, match="no split 'dev'; it has train, val, test"):
        data.num_examples(data.builder(NAME, synthetic_dir), "dev")
    assert data.num_examples(data.builder(NAME, synthetic_dir), "train[:50%]+val") == 48 + 32


def test_the_only_config_of_a_dataset_needs_no_name(tmp_path):
    write_tif(tmp_path / "in" / "a.tif", pixels())
    LandsatFolder(source=tmp_path / "in", data_dir=tmp_path / "out", config="one").download_and_prepare()
    assert data.builder("landsat_folder", tmp_path / "out").info.full_name == "landsat_folder/one/1.0.0"
    LandsatFolder(source=tmp_path / "in", data_dir=tmp_path / "bare").download_and_prepare()
    assert data.builder("landsat_folder", tmp_path / "bare").info.full_name == "landsat_folder/1.0.0"


def test_published_statistics_are_those_of_the_dataset(tmp_path):
    """From the numbers of the papers, written out: the first band of each."""
    write_bigearthnet(tmp_path / "ben", [BIGEARTHNET_ID.format(4, 0)])
    write_tif(tmp_path / "eurosat" / "Forest" / "Forest_1.tif", pixels(8))
    for builder, mean, std in (
        (BigearthnetLandsat(source=tmp_path / "ben", data_dir=tmp_path), 9405.194, 6016.344),
        (EurosatLandsat(source=tmp_path / "eurosat", data_dir=tmp_path), 8515.321, 3938.756),
    ):
        builder.download_and_prepare()
        batch = next(data.load(builder, "train").as_numpy_iterator())
        dn = (pixels() if mean > 9000 else pixels(8))[0:40, 1:41, 0]
        np.testing.assert_allclose(batch["image"][0, ..., 0], (dn - mean) / std, atol=1e-4)
        other = Statistics((100.0,) * 7, (7.0,) * 7, "other")
        batch = next(data.load(builder, "train", statistics=dict(other)).as_numpy_iterator())
        np.testing.assert_allclose(batch["image"][0, ..., 0], (dn - 100) / 7, rtol=1e-4)


def test_the_published_hour_on_request(tmp_path):
    write_bigearthnet(tmp_path / "ben", [BIGEARTHNET_ID.format(4, 0)])  # 10:10:31, so the first digit is 1
    builder = BigearthnetLandsat(source=tmp_path / "ben", data_dir=tmp_path)
    builder.download_and_prepare()
    hours = [next(data.load(builder, "train", hour=hour).as_numpy_iterator())["hour"][0] for hour in ("utc", "published")]
    angles = np.array([10, 1]) * 2 * np.pi / 24
    np.testing.assert_allclose(hours, np.stack([np.sin(angles), np.cos(angles)], axis=1), atol=1e-6)


def with_shard(synthetic_dir, folder, damage):
    """A copy of the small dataset of which `damage` has been at one shard of the training split."""
    shutil.copytree(synthetic_dir / "synthetic_landsat" / "small", folder / "synthetic_landsat" / "small")
    damage(sorted(folder.glob("synthetic_landsat/small/1.0.0/*-train.tfrecord-00003*"))[0])
    return dict(name_or_builder="synthetic_landsat/small", data_dir=folder, img_size=8, batch_size=8, statistics=RAW)


def cut(records):
    """Keep the first so many records: each has its length, in 8 bytes, before it and 8 bytes of checksums beside it."""

    def damage(path):
        content, end = path.read_bytes(), 0
        for _ in range(records):
            end += int.from_bytes(content[end : end + 8], "little") + 16
        path.write_bytes(content[:end])

    return damage


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.write_bytes(b""), "holds 0 records, and synthetic_landsat says 12"),
        (cut(5), "holds 5 records, and synthetic_landsat says 12"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "is cut within a record"),
        (lambda path: path.unlink(), "is absent"),
    ],
    ids=["emptied", "cut at a record's border", "cut within a record", "lost"],
)
def test_a_damaged_shard_is_named_before_the_first_batch(synthetic_dir, tmp_path, damage, message):
    options = with_shard(synthetic_dir, tmp_path, damage)
    for train in (True, False):
        with pytest.raises(data.DamagedDatasetError, match=f"train.tfrecord-00003-of-00008 {message}.*--verify"):
            data.load(**options, split="train", train=train)
    with pytest.raises(data.DamagedDatasetError):
        data.compute_statistics("synthetic_landsat/small", "train", tmp_path)
    assert len(list(data.load(**options, split="test"))) == 6  # the other splits are whole


def test_the_fingerprint_is_of_the_records_alone(synthetic_dir, tmp_path):
    def of(name, data_dir=synthetic_dir):
        return data.fingerprint(data.builder(f"synthetic_landsat/{name}", data_dir))

    shutil.copytree(synthetic_dir / "synthetic_landsat" / "small", tmp_path / "synthetic_landsat" / "elsewhere")
    assert of("small") == of("elsewhere", tmp_path) != of("small_dominant")  # the same images with other labels
    labels = tmp_path / "synthetic_landsat" / "elsewhere" / "1.0.0" / "labels.labels.txt"
    names = labels.read_text().splitlines()
    labels.write_text("\n".join([names[1], names[0], *names[2:]]) + "\n")
    assert of("small") != of("elsewhere", tmp_path)


def test_the_fingerprint_reads_shards_that_changed(synthetic_dir, tmp_path):
    name = "synthetic_landsat/small"
    of = lambda folder=tmp_path: data.fingerprint(data.builder(name, folder))
    shutil.copytree(synthetic_dir / name, tmp_path / name)
    whole, (first, *_) = of(synthetic_dir), sorted((tmp_path / name / "1.0.0").glob("*-train.tfrecord*"))
    assert of() == whole
    os.utime(first, (1, 1))
    assert of() == whole  # the same records
    content, state = first.read_bytes(), first.stat()
    records = [raw.numpy() for raw in tf.data.TFRecordDataset(str(first))]
    with tf.io.TFRecordWriter(str(first)) as writer:
        for raw in [records[1], records[0], *records[2:]]:
            writer.write(raw)
    assert first.stat().st_size == state.st_size and of() != whole  # in another order, of the same size
    for damaged in (content[:-3], b"", content[:-1] + bytes([content[-1] ^ 1])):
        first.write_bytes(damaged)
        assert of() != whole
    first.unlink()
    assert of() != whole
    first.write_bytes(content)
    for manifest in ("{", None):  # damaged, and of a version that wrote none
        path = tmp_path / name / "1.0.0" / "shards.json"
        path.unlink() if manifest is None else path.write_text(manifest)
        assert of() == whole


def test_the_fingerprint_does_not_read_shards_that_did_not_change(synthetic_dir, tmp_path):
    name = "synthetic_landsat/small"
    shutil.copytree(synthetic_dir / name, tmp_path / name)
    for path in (tmp_path / name / "1.0.0").glob("*.tfrecord*"):
        state = path.stat()
        path.write_bytes(b"\0" * state.st_size)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert data.fingerprint(data.builder(name, tmp_path)) == data.fingerprint(data.builder(name, synthetic_dir))


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "a\\b", "/etc", ".hidden"])
def test_a_name_that_leads_out_of_the_data_dir_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is no name for a dataset"):
        data.builder(f"landsat_folder/{name}", tmp_path)


def test_records_of_many_files_come_in_their_order_and_at_once(tmp_path):
    """600 files of three records: a chain of `concatenate` took minutes for the first of them."""
    paths = []
    for i in range(600):
        paths.append(tmp_path / f"{i:03d}.tfrecord")
        with tf.io.TFRecordWriter(str(paths[-1])) as writer:
            for j in range(3):
                writer.write(f"{i}.{j}".encode())
    files = [SimpleNamespace(filename=path, skip=1, take=-1 if i % 2 else 1) for i, path in enumerate(paths)]
    start = time.monotonic()
    records = [record.decode() for record in pipeline._read_files(files).as_numpy_iterator()]
    assert records == [f"{i}.{j}" for i in range(600) for j in ((1, 2) if i % 2 else (1,))]
    assert time.monotonic() - start < 20


def test_rows_of_a_split(synthetic_dir):
    """In the order of the records, over the borders of shards and of what a split joins; the others are not read."""
    name, options = (
        "synthetic_landsat/small",
        dict(data_dir=synthetic_dir, batch_size=7, statistics=STATISTICS["eurosat_landsat"]),
    )
    ids = lambda split, **more: [i for b in data.load(name, split, **options, **more).as_numpy_iterator() for i in b["id"]]
    for split, count in (("test", 48), ("val[10:]+test[:9]", 31)):
        whole = ids(split)
        assert len(whole) == count
        for first, stop in ((0, 1), (5, 20), (17, count), (count - 1, count)):
            assert ids(split, rows=(first, stop)) == whole[first:stop]
    for rows in ((0, 49), (-1, 3), (4, 4)):
        with pytest.raises(ValueError, match=r"rows = .* are none of the 48 examples of synthetic_landsat split test"):
            ids("test", rows=rows)
    with pytest.raises(ValueError, match=r"rows = \(0, 8\) are for train=False"):
        ids("test", rows=(0, 8), train=True)
    with pytest.raises(ValueError, match="one_epoch = True is for train=True"):
        ids("test", one_epoch=True)


def test_examples_that_two_splits_have_in_common_are_counted(synthetic_dir):
    source = data.builder(NAME, synthetic_dir)
    whole = data.num_examples(source, "train")
    for first, second, common in (
        ("train", "test", 0),
        ("train", "train", whole),
        ("train[:40]", "train[30:60]", 10),
        ("train[30:60]", "train[:40]+test", 10),
        ("train[:40]", "train[40:]", 0),
        ("train[:0]", "train", 0),
    ):
        assert data.shared_examples(source, first, second) == common, (first, second)
    with pytest.raises(ValueError, match="no split 'trian'"):
        data.shared_examples(source, "train", "trian")

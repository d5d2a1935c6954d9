"""Prepared datasets to files, by command; probes on these files."""

import json
import shutil

import numpy as np
import pytest
from conftest import PTH, finish, start_script
from embedding_tools import SIZE, make_ground
from geotiffs import write_tif

from geomoe import data, embeddings, metadata
from geomoe.cli import embed as cli, setup
from geomoe.data import synthetic
from geomoe.data.builders import LandsatFolder, SyntheticConfig, SyntheticLandsat
from geomoe.embeddings import sink as sinks
from geomoe.pretrained import embed_in_batches
from geomoe.probing import embed_split, knn_probe, linear_probe

NAME = "synthetic_landsat/small"


@pytest.mark.filterwarnings("ignore::geomoe.data.preprocess.StatisticsWarning")  # these weights are of other patches
def test_every_patch_of_a_split_with_its_labels(encoder, synthetic_dir, tmp_path):
    sink = embeddings.Sink(tmp_path / "val.npz", pool="cls", batch_size=12)
    counts = embeddings.embed_dataset(encoder, sink, NAME, "val", data_dir=synthetic_dir)
    table = embeddings.read(tmp_path / "val.npz")
    assert counts["patches"] == 32 and sorted(table["id"]) == [f"synthetic_0_val_{i:06d}" for i in range(32)]
    for row, patch_id in enumerate(table["id"]):
        scene = synthetic.scene(0, "val", int(patch_id[-6:]))
        assert np.flatnonzero(table["labels"][row]).tolist() == scene.labels
        assert table["time"][row] == scene.time and table["latitude"][row] == np.float32(scene.latitude)
        crop = scene.image[18 : 18 + SIZE, 18 : 18 + SIZE]
        assert table["embedded"][row] == crop.any()
        if table["embedded"][row]:
            location = (np.float32([scene.latitude]), np.float32([scene.longitude]))
            z = encoder.embed(crop[None], *location, [scene.time], pool="cls")
            np.testing.assert_allclose(table["vector"][row], z[0], atol=1e-5)
    assert table["facts"]["classes"] == list(synthetic.CLASSES) and table["facts"]["split"] == "val"
    with pytest.raises(ValueError, match="is for scenes"):
        embeddings.embed_dataset(encoder, embeddings.Sink(tmp_path / "x.tif"), NAME, "val", data_dir=synthetic_dir)


@pytest.mark.parametrize(
    "first, then, stop_at, resumes_at", [(8, 8, 30, 24), (8, 12, 30, 24), (12, 8, 40, 24), (5, 7, 44, 40), (16, 64, 40, 32)]
)
def test_an_interrupted_dataset_goes_on_with_any_batch_size(
    encoder, synthetic_dir, tmp_path, monkeypatch, first, then, stop_at, resumes_at
):
    """Parts have at least 20 rows here and end with a batch; every row of the 48 comes once, in the order of the records."""
    monkeypatch.setattr(sinks, "BLOCK", 20)

    def stop(done, total):
        if done > stop_at:
            raise KeyboardInterrupt

    def run(name, batch_size, **options):
        sink = embeddings.Sink(tmp_path / name, batch_size=batch_size, **options)
        return embeddings.embed_dataset(encoder, sink, NAME, "test", data_dir=synthetic_dir)

    run("whole.npz", 48)
    with pytest.raises(KeyboardInterrupt):
        run("cut.npz", first, progress=stop)
    seen = []
    assert run("cut.npz", then, progress=lambda done, total: seen.append(done))["patches"] == 48
    assert seen[0] == resumes_at and seen[-1] == 48
    one, two = (embeddings.read(tmp_path / name) for name in ("whole.npz", "cut.npz"))
    assert len(set(one["id"])) == 48
    for name in ("id", "labels", "time"):
        np.testing.assert_array_equal(one[name], two[name])
    np.testing.assert_allclose(one["vector"], two["vector"], atol=1e-5)


def test_parts_of_other_records_are_refused(encoder, tmp_path, monkeypatch):
    """A dataset that was prepared anew under the same name, with as many patches."""

    def prepare(seed):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        config = SyntheticConfig(name="own", counts={"test": 12}, seed=seed)
        SyntheticLandsat(config=config, data_dir=tmp_path / "data").download_and_prepare()

    def stop(done, total):
        if done == total:
            raise KeyboardInterrupt

    def run(**options):
        sink = embeddings.Sink(tmp_path / "x.npz", batch_size=4, **options)
        return embeddings.embed_dataset(encoder, sink, "synthetic_landsat/own", "test", data_dir=tmp_path / "data")

    monkeypatch.setattr(sinks, "BLOCK", 4)
    prepare(0)
    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    prepare(1)
    with pytest.raises(ValueError, match=r"parts of another run \(records differ\)"):
        run()


@pytest.mark.parametrize("size", [None, 0, 2.5])
def test_a_sink_takes_whole_batches(size):
    with pytest.raises(ValueError, match=f"batch_size = {size} must be a whole number, 1 or more"):
        embeddings.Sink("x.npz", batch_size=size)


def test_by_command_and_probes_on_its_files(encoder, synthetic_dir, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    command = ["--checkpoint", str(PTH), "--dataset", NAME, "--data_dir", str(synthetic_dir)]
    for split in ("train", "test"):
        cli.main([*command, "--split", split, "--output", str(tmp_path / f"{split}.parquet")])
        cli.main([*command, "--split", split, "--output", str(tmp_path / f"{split}.npz")])
    assert "48 embeddings" in capsys.readouterr().out
    a, b = (embeddings.read(tmp_path / f"train.{suffix}") for suffix in ("parquet", "npz"))
    for name in ("id", "latitude", "time", "labels", "vector"):
        np.testing.assert_array_equal(a[name], b[name])
    for probe in (linear_probe, knn_probe):
        files = probe(tmp_path / "train.parquet", tmp_path / "test.npz", task="multilabel", resamples=0)
        arrays = probe(
            *(embeddings.read_features(tmp_path / f"{s}.npz") for s in ("train", "test")), task="multilabel", resamples=0
        )
        assert files.metrics == arrays.metrics
    cli.main([*command, "--split", "test", "--resize_mode", "resize", "--output", str(tmp_path / "resized.npz")])
    resized, cropped = (embeddings.read(tmp_path / name) for name in ("resized.npz", "test.npz"))
    assert np.abs(resized["vector"] - cropped["vector"]).max() > 1e-3
    assert [file["facts"]["input"]["resize_mode"] for file in (resized, cropped)] == ["resize", "centre_crop"]
    with pytest.raises(ValueError, match="for --folder and scenes"):
        cli.main([*command, "--unit", "reflectance", "--output", str(tmp_path / "x.npz")])


def test_a_flipped_bit_in_a_shard_ends_in_one_line(synthetic_dir, tmp_path, capsys):
    shutil.copytree(synthetic_dir / "synthetic_landsat" / "small", tmp_path / "synthetic_landsat" / "small")
    (shard,) = tmp_path.glob("synthetic_landsat/small/1.0.0/*-test.tfrecord-00003-of-*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    command = ["--checkpoint", str(PTH), "--dataset", NAME, "--data_dir", str(tmp_path), "--output", str(tmp_path / "x.npz")]
    assert setup.clear_errors(cli.main, command) == 1
    error = capsys.readouterr().err
    assert "error: a shard of a prepared dataset is damaged (corrupted record at " in error and "--verify` says which" in error
    assert "Traceback" not in error and not (tmp_path / "x.npz").exists()


def test_the_hour_option_is_passed_on(encoder, synthetic_dir, tmp_path):
    """The published hour is read from a stamp in the name, which these patches lack."""
    with pytest.raises(Exception, match="no time stamp in the patch name"):
        sink = embeddings.Sink(tmp_path / "val.npz")
        embeddings.embed_dataset(encoder, sink, NAME, "val", data_dir=synthetic_dir, hour="published")


TOGETHER = """
import json, sys
import jax, numpy as np
sys.path.insert(0, "tests")
from conftest import PTH
import geomoe
from geomoe import embeddings
from geomoe.embeddings import sink as sinks
from geomoe.probing import embed_split

coordinator, process, data_dir, folder, out = json.loads(sys.argv[1])
jax.distributed.initialize(coordinator, 2, process)
encoder, sinks.BLOCK = geomoe.load(PTH), 10

def stop(done, total):
    if done > 10 + 5 * process:  # in the second part of 10 rows
        raise KeyboardInterrupt

def embed(progress):
    sink = embeddings.Sink(f"{out}.npz", batch_size=5, progress=progress)
    return embeddings.embed_dataset(encoder, sink, "synthetic_landsat/small", "test", data_dir=data_dir)

try:
    embed(stop)
except KeyboardInterrupt:
    pass
jax.experimental.multihost_utils.sync_global_devices("interrupted")
seen = []
counts = embed(lambda done, total: seen.append((done, total)))
sink = embeddings.Sink(f"{out}_folder.npz", batch_size=2)
files = embeddings.embed_folder(encoder, sink, folder)
features = embed_split({"a": encoder}, "synthetic_landsat/small", "test", data_dir=data_dir, batch_size=7)
arrays = {"set": features.sets["a"], "labels": features.labels, "ids": features.ids, **features.targets}
np.savez(f"{out}_{process}.npz", **arrays, seen=seen, counts=[*counts.values(), *files.values()])
"""


@pytest.mark.long
def test_two_processes_write_the_file_of_one(encoder, synthetic_dir, tmp_path, free_port):
    """A dataset of 48 patches, interrupted and gone on with; a folder of five, one of them unreadable; features of a split."""
    for i in range(5):
        write_tif(tmp_path / "in" / f"{i}.tif", make_ground() + np.uint16(100 * i))
    (tmp_path / "in" / "1.tif").write_bytes(b"no")
    shared = [str(synthetic_dir), str(tmp_path / "in"), str(tmp_path / "two")]
    finish(*(start_script(["-c", TOGETHER, json.dumps([f"localhost:{free_port}", i, *shared])]) for i in (0, 1)))
    for name, embed in (
        ("two.npz", lambda sink: embeddings.embed_dataset(encoder, sink, NAME, "test", data_dir=synthetic_dir)),
        ("two_folder.npz", lambda sink: embeddings.embed_folder(encoder, sink, tmp_path / "in")),
    ):
        embed(embeddings.Sink(tmp_path / f"one_{name}"))
        one, two = (embeddings.read(tmp_path / file) for file in (f"one_{name}", name))
        assert one.pop("facts") == two.pop("facts") and set(one) == set(two)
        for column, values in one.items():
            check = np.testing.assert_allclose if column == "vector" else np.testing.assert_array_equal
            check(two[column], values, **({"atol": 1e-5} if column == "vector" else {}), err_msg=f"{name} {column}")
    assert not list(tmp_path.glob("*.parts"))
    features = embed_split({"a": encoder}, NAME, "test", data_dir=synthetic_dir)
    both = [np.load(tmp_path / f"two_{i}.npz") for i in (0, 1)]
    for found in both:
        np.testing.assert_allclose(found["set"], features.sets["a"], atol=1e-5)
        for key, expected in {"labels": features.labels, "ids": features.ids, **features.targets}.items():
            np.testing.assert_array_equal(found[key], expected)
        assert found["counts"].tolist() == [48, int(np.sum(np.load(tmp_path / "two.npz")["embedded"])), 4, 4, 1]
    # 24 rows each, of which each had written 10 when it was interrupted: of the 28 that are missing, 14 for each.
    assert [found["seen"][0].tolist() for found in both] == [[20, 34]] * 2
    assert all(found["seen"][-1].tolist() == [34, 34] for found in both)


def test_files_that_do_not_belong_together_are_no_probe(encoder, synthetic_dir, tmp_path):
    """Another encoder, another pool, another list of classes; and the fitted model knows which they were."""

    def embedded(name, encoder=encoder, pool="mean"):
        sink = embeddings.Sink(tmp_path / name, pool)
        embeddings.embed_dataset(encoder, sink, NAME, "test", data_dir=synthetic_dir)
        return tmp_path / name

    mean, other = embedded("a.npz"), embedded("b.parquet", encoder.random_weights(1))
    cls = embedded("c.parquet", pool="cls")
    with np.load(mean) as file:
        arrays = dict(file)
    facts = json.loads(str(arrays["facts"]))
    facts["classes"] = facts["classes"][::-1]
    np.savez(tmp_path / "d.npz", **arrays | {"facts": np.array(json.dumps(facts))})
    for path, key in ((other, "encoder_sha256"), (cls, "pool"), (tmp_path / "d.npz", "classes")):
        for probe in (linear_probe, knn_probe):
            with pytest.raises(ValueError, match=f"a.npz has {key} .*{path.name}.*: a probe takes files of one encoder"):
                probe(mean, path, task="multilabel")
    own = embeddings.Sink(tmp_path / "own.npz")
    embeddings.embed_dataset(encoder, own, NAME, "test", data_dir=synthetic_dir, statistics="computed")
    with pytest.raises(ValueError, match="a.npz by the encoder's statistics, .*own.npz by statistics of their own"):
        linear_probe(mean, own.output, task="multilabel")
    model = linear_probe(cls, cls, task="multilabel", resamples=0).model
    images = np.random.default_rng(0).integers(8000, 20000, (3, 8, 8, 7)).astype(np.uint16)
    by_hand = model.predict(encoder.embed(images, pool="cls"))
    np.testing.assert_array_equal(model.predict_images(encoder, images), by_hand)
    with pytest.raises(ValueError, match="fitted on embeddings of another encoder"):
        model.predict_images(encoder.random_weights(1), images)


def test_pixels_without_data_speak_where_asked(encoder, tmp_path):
    """And the command passes the option on."""
    for i in range(3):
        image = np.random.default_rng(i).integers(7000, 20000, (8, 8, 7)).astype(np.uint16)
        image[:4, :4] = 0
        write_tif(tmp_path / "in" / f"a{i}.tif", image)
    LandsatFolder(source=tmp_path / "in", data_dir=tmp_path / "d").download_and_prepare()
    out = {}
    for nodata in ("masked", "published"):
        sink = embeddings.Sink(tmp_path / f"{nodata}.npz")
        embeddings.embed_dataset(encoder, sink, "landsat_folder", "train", data_dir=tmp_path / "d", nodata=nodata)
        out[nodata] = embeddings.read(tmp_path / f"{nodata}.npz")["vector"]
    assert np.abs(out["masked"] - out["published"]).max() > 1e-2
    command = ["--checkpoint", str(PTH), "--dataset", "landsat_folder", "--split", "train", "--data_dir", str(tmp_path / "d")]
    cli.main([*command, "--nodata", "published", "--output", str(tmp_path / "c.npz")])
    np.testing.assert_allclose(embeddings.read(tmp_path / "c.npz")["vector"], out["published"], atol=1e-5)


def test_a_dataset_is_z_scored_by_the_statistics_of_its_training_split_where_asked(encoder, synthetic_dir, tmp_path):
    own, expected = data.compute_statistics(NAME, "train", synthetic_dir), []
    batches = data.load(NAME, "val", data_dir=synthetic_dir, img_size=SIZE, statistics=own)
    for batch in batches.as_numpy_iterator():
        fields = [batch[name] for name in metadata.FIELDS]
        expected.append(embed_in_batches(encoder, batch["image"], fields, valid=batch["valid"]))
    for name, statistics in (("computed", "computed"), ("given", own)):
        sink = embeddings.Sink(tmp_path / f"{name}.npz")
        embeddings.embed_dataset(encoder, sink, NAME, "val", data_dir=synthetic_dir, statistics=statistics)
        table = embeddings.read(sink.output)
        rows = table["embedded"]
        np.testing.assert_allclose(table["vector"][rows], np.concatenate(expected)[rows], atol=2e-5)
        assert table["facts"]["input"]["statistics"] == dict(own)

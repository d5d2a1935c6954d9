"""Prepared datasets to files, by command; probes on these files."""

import numpy as np
import pytest
from conftest import PTH
from embedding_tools import SIZE

from geomoe import embeddings
from geomoe.cli import embed as cli
from geomoe.data import synthetic
from geomoe.embeddings import sink as sinks
from geomoe.probing import knn_probe, linear_probe

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


def test_an_interrupted_dataset_goes_on(encoder, synthetic_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "BLOCK", 20)

    def stop(done, total):
        if done > 30:
            raise KeyboardInterrupt

    run = lambda name, **options: embeddings.embed_dataset(
        encoder, embeddings.Sink(tmp_path / name, batch_size=8, **options), NAME, "test", data_dir=synthetic_dir
    )
    run("whole.npz")
    with pytest.raises(KeyboardInterrupt):
        run("cut.npz", progress=stop)
    seen = []
    run("cut.npz", progress=lambda done, total: seen.append(done))
    assert seen[0] == 16 and seen[-1] == 48
    one, two = (embeddings.read(tmp_path / name) for name in ("whole.npz", "cut.npz"))
    assert len(set(one["id"])) == 48
    for name in ("id", "vector", "labels", "time"):
        np.testing.assert_array_equal(one[name], two[name])


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
    with pytest.raises(ValueError, match="for --folder and --scene"):
        cli.main([*command, "--unit", "reflectance", "--output", str(tmp_path / "x.npz")])


def test_the_hour_option_is_passed_on(encoder, synthetic_dir, tmp_path):
    """The published hour is read from a stamp in the name, which these patches lack."""
    with pytest.raises(Exception, match="no time stamp in the patch name"):
        sink = embeddings.Sink(tmp_path / "val.npz")
        embeddings.embed_dataset(encoder, sink, NAME, "val", data_dir=synthetic_dir, hour="published")

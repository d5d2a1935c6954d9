"""Fitted models and their files."""

import dataclasses
import pathlib
import types

import numpy as np
import pytest
from conftest import DATA, PTH
from probing_helpers import problem

import geomoe
from geomoe.data.preprocess import InputSpec
from geomoe.probing import LinearModel, linear_probe, load_probe


def test_saved_probes_are_plain_and_come_back(tmp_path):
    x, y = problem(7, 100, 16, 3, False)
    facts = {"classes": np.array(["a", "b", "c"]), "rows": np.int64(100), "file": pathlib.Path("train.npz")}
    model = linear_probe((x, y), (x, y), task="multiclass", resamples=0, info=facts).model
    assert model.predict(x[:0]).shape == (0,) and model.probabilities(x[:0]).shape == (0, 3)
    for name in ("probe.npz", "probe.safetensors"):
        if name.endswith("safetensors"):
            pytest.importorskip("safetensors")
        model.save(tmp_path / name)
        again = load_probe(tmp_path / name)
        np.testing.assert_array_equal(again.probabilities(x), model.probabilities(x))
        assert again.info["classes"] == ["a", "b", "c"] and again.task == "multiclass"
        assert (again.info["rows"], again.info["file"]) == (100, "train.npz")
    encoder = geomoe.load(DATA / "reference_tiny_random.pth")
    images = np.full((4, 8, 8, 7), 12000, np.uint16)
    assert again.predict_images(encoder, images).tolist() == again.predict(encoder.embed(images)).tolist()
    assert again.predict_images(encoder, images[:0]).tolist() == []
    dark = images.copy()
    dark[:, :, :4] = 0
    published = dataclasses.replace(model, info={**model.info, "input": encoder.record(InputSpec(nodata="published"))})
    seen = []
    embed = lambda images, **options: seen.append(options) or encoder.embed(images, **options)
    recorder = types.SimpleNamespace(embed=embed, statistics=encoder.statistics)
    expected = model.predict(encoder.embed(dark, nodata="published"))
    assert published.predict_images(recorder, dark).tolist() == expected.tolist() and seen[0]["nodata"] == "published"
    published.predict_images(recorder, dark, nodata="masked")
    assert seen[1]["nodata"] == "masked"
    with pytest.raises(ValueError, match="saved as .npz or .safetensors"):
        model.save(tmp_path / "probe.pkl")
    (tmp_path / "other.npz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match="other.npz is no saved probe"):
        load_probe(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"features must be \(N, 16\)"):
        model.predict(x[:, :3])


def test_a_model_of_a_regression_has_no_probabilities():
    model = LinearModel(np.ones((2, 1), np.float32), np.zeros(1, np.float32), "regression", 1.0)
    assert model.predict(np.ones((3, 2))).tolist() == [[2.0]] * 3
    with pytest.raises(ValueError, match="no probabilities"):
        model.probabilities(np.ones((3, 2)))


def test_a_probe_z_scores_images_as_those_of_its_fit_were():
    """By statistics of the fit's own, whoever describes the images; not in another unit, nor where there were several."""
    encoder, rng = geomoe.load(PTH), np.random.default_rng(0)
    images = rng.integers(7000, 20000, (4, 8, 8, 7)).astype(np.uint16)
    own = {"mean": [9000.0 + i for i in range(7)], "std": [500.0] * 7, "source": "computed:here"}
    record = encoder.record(InputSpec(statistics=own))
    model = LinearModel(rng.standard_normal((16, 2)).astype(np.float32), np.zeros(2, np.float32), "multilabel", 1.0)
    of = lambda record: dataclasses.replace(model, info={"encoder_sha256": encoder.fingerprint, "input": record})
    expected, by_encoder = (model.predict(encoder.embed(images, **options)) for options in ({"statistics": own}, {}))
    assert expected.tolist() != by_encoder.tolist()
    assert of(record).predict_images(encoder, images).tolist() == expected.tolist()
    assert of(record).predict_images(encoder, images, spec=InputSpec()).tolist() == expected.tolist()
    assert of(encoder.record()).predict_images(encoder, images).tolist() == by_encoder.tolist()
    assert of(record).predict_images(encoder, images, statistics=encoder.statistics).tolist() == by_encoder.tolist()
    with pytest.raises(ValueError, match="z-scored by computed:here, in collection2_dn; these are reflectance"):
        of(record).predict_images(encoder, images / 65535, unit="reflectance")
    with pytest.raises(ValueError, match="scenes each z-scored by its own"):
        of({**record, "statistics": [own, own]}).predict_images(encoder, images)

"""Fitted models and their files."""

import dataclasses
import json
import pathlib
import types

import numpy as np
import pytest
import xarray
from conftest import DATA, PTH
from probing_helpers import problem

import geomoe
from geomoe.data.preprocess import InputSpec
from geomoe.landsat import BANDS
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


@pytest.fixture
def fitted():
    """An encoder, images, and a model of which `info` is to be said."""
    encoder, rng = geomoe.load(PTH), np.random.default_rng(0)
    images = rng.integers(7000, 20000, (4, 8, 8, 7)).astype(np.uint16)
    model = LinearModel(rng.standard_normal((16, 2)).astype(np.float32), np.zeros(2, np.float32), "regression", 1.0)
    of = lambda **info: dataclasses.replace(model, info={"encoder_sha256": encoder.fingerprint, **info})
    return encoder, images, of


def test_a_probe_z_scores_images_as_those_of_its_fit_were(fitted):
    """By statistics of the fit's own: those of Collection 2 in every unit and order of bands, others in their own alone."""
    encoder, images, of = fitted
    own = {"mean": [9000.0 + 100 * i for i in range(7)], "std": [500.0 + 10 * i for i in range(7)], "source": "computed:here"}
    dn = own | {"unit": "collection2_dn"}
    of_encoder, of_fit, of_dn = (of(input=encoder.record(InputSpec(statistics=one))) for one in (None, own, dn))
    predicted = lambda model, *images, **options: model.predict_images(encoder, *images, **options)
    expected, by_encoder = (of().predict(encoder.embed(images, **options)) for options in ({"statistics": own}, {}))
    assert np.abs(expected - by_encoder).max() > 0.1
    for model in (of_fit, of_dn):
        np.testing.assert_array_equal(predicted(model, images), expected)
        np.testing.assert_array_equal(predicted(model, images, spec=InputSpec()), expected)
        np.testing.assert_array_equal(predicted(model, images, statistics=encoder.statistics), by_encoder)
    np.testing.assert_array_equal(predicted(of_encoder, images), by_encoder)
    other = dict(bands=BANDS[::-1]), dict(unit="reflectance")
    others = images[..., ::-1], images * 0.0000275 - 0.2
    for pixels, options, key in zip(others, other, ("bands", "unit")):
        np.testing.assert_allclose(predicted(of_dn, pixels, **options), expected, atol=1e-3)
        with pytest.raises(ValueError, match=f"z-scored by computed:here, whose {key} is .*; give statistics= of their unit"):
            predicted(of_fit, pixels, **options)
    with pytest.raises(ValueError, match="scenes each z-scored by its own"):
        predicted(of(input={**encoder.record(), "statistics": [own, own]}), images)


def test_a_probe_reads_images_as_its_fit_did(fitted):
    """Pixels without data, place and time, and what cannot be done again is refused."""
    encoder, images, of = fitted
    images[:, :3] = 0
    published = of(input=encoder.record(InputSpec(nodata="published")))
    expected = of().predict(encoder.embed(images, nodata="published"))
    for options in ({}, {"spec": InputSpec()}):
        np.testing.assert_array_equal(published.predict_images(encoder, images, **options), expected)
    where = dict(lat=[50.0] * 4, lon=[10.0] * 4, time=["2020-05-18T10:00"] * 4)
    for dropped, left in (
        (["lat", "lon", "week", "hour"], {}),
        (["lon"], {"lat": where["lat"], "time": where["time"]}),
        (["week", "hour"], {"lat": where["lat"], "lon": where["lon"]}),
    ):
        z = of().predict(encoder.embed(images, **left))
        np.testing.assert_array_equal(of(data={"drop": dropped}).predict_images(encoder, images, **where), z)
    sized = of(data={"resize_mode": "centre_crop"}).predict_images(encoder, np.pad(images, ((0, 0), (1, 1), (2, 2), (0, 0))))
    np.testing.assert_array_equal(sized, of().predict(encoder.embed(images)))
    np.testing.assert_array_equal(of().predict_images(encoder, images, spec=None), of().predict(encoder.embed(images)))
    labelled = xarray.DataArray(images, dims=("n", "y", "x", "band"), coords={"band": list(BANDS)})
    for data, options, message in (
        ({"drop": ["week"]}, where, "fitted without week"),
        ({"clip": [1, 20000]}, {}, r"clipped to \(1, 20000\)"),
        ({"hour": "published"}, where, "fitted on hours as published"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*: do the same, embed the images"):
            of(data=data).predict_images(encoder, images, **options)
    with pytest.raises(ValueError, match="fitted without lon, which xarray may say"):
        of(data={"drop": ["lon"]}).predict_images(encoder, labelled)


def test_a_probe_of_an_older_version_z_scores_by_the_encoders_statistics_of_then(fitted):
    """Their record says no unit of statistics and not whose they are: Collection 2's, for images of any unit."""
    encoder, images, of = fitted
    other = {"mean": [9000.0 + 100 * i for i in range(7)], "std": [500.0] * 7, "source": "then"}
    before = {**encoder.record(InputSpec(unit="reflectance")), "statistics": other}
    del before["statistics_of"]
    expected = of().predict(encoder.embed(images, statistics=other))
    reflectance = of(input=before).predict_images(encoder, images * 0.0000275 - 0.2, unit="reflectance")
    np.testing.assert_allclose(reflectance, expected, atol=1e-3)
    np.testing.assert_allclose(of(input=before).predict_images(encoder, images), expected, atol=1e-5)


def test_files_whose_parts_do_not_fit_are_no_saved_probes(tmp_path):
    right = {"task": "multiclass", "C": 1.0, "info": {}}
    for facts, coef, intercept, message in (
        ({"C": 1.0, "info": {}}, (3, 2), 2, "KeyError: 'task'"),
        ([1, 2], (3, 2), 2, "TypeError"),
        (right, (3, 2), 5, r"coef must be numbers \(D, K\) and intercept \(K,\), got \(3, 2\) and \(5,\)"),
        (right, (3,), 3, r"coef must be numbers \(D, K\)"),
        ({**right, "task": "x"}, (3, 2), 2, "task = 'x' is not one of multiclass, multilabel, regression"),
        ({**right, "info": [1]}, (3, 2), 2, "info must be a mapping, got list"),
    ):
        np.savez(tmp_path / "some.npz", facts=json.dumps(facts), coef=np.zeros(coef), intercept=np.zeros(intercept))
        with pytest.raises(ValueError, match=f"some.npz is no saved probe: .*{message}"):
            load_probe(tmp_path / "some.npz")
    np.savez(tmp_path / "some.npz", facts=json.dumps(right), coef=np.zeros((3, 2)), intercept=np.zeros(2))
    assert load_probe(tmp_path / "some.npz").predict(np.ones((4, 3))).tolist() == [0] * 4


def test_classes_of_xarray_have_its_other_dimensions(fitted):
    """None of a single image, two of several dates of several places."""
    encoder, images, of = fitted
    coordinates = {"band": list(BANDS)}
    dims = ("band", "y", "x")
    first_bands = np.moveaxis(images, -1, -3)
    regression = of()
    classes = dataclasses.replace(regression, task="multiclass")
    grid = xarray.DataArray(first_bands.reshape(2, 2, 7, 8, 8), dims=("place", "time_of_day", *dims), coords=coordinates)
    single = xarray.DataArray(first_bands[1], dims=dims, coords=coordinates)
    for model, shape in ((regression, (2,)), (classes, ())):
        expected = model.predict_images(encoder, images)
        assert expected.shape == (4, *shape)
        np.testing.assert_allclose(model.predict_images(encoder, grid), expected.reshape(2, 2, *shape), rtol=1e-4)
        np.testing.assert_allclose(model.predict_images(encoder, single), expected[1], rtol=1e-4)
        assert model.predict_images(encoder, single).shape == shape
    with pytest.raises(ValueError, match="pool = 'tokens' gives every token"):
        classes.predict_images(encoder, images, pool="tokens")

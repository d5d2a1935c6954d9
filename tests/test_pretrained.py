"""A pretrained encoder in its user's hands: what `embed` makes of images, metadata, batches, devices and pools."""

import dataclasses
import os
import subprocess
import sys
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
from conftest import DATA, LOGARITHM, ROOT, on_scale, with_scale

import geomoe
from geomoe import landsat, metadata
from geomoe.compilation import images_at_once
from geomoe.data import preprocess, synthetic
from geomoe.models.pooling import pool_width


@pytest.fixture(scope="module")
def scenes():
    """Six synthetic patches, and lat, lon and time of each."""
    patches = [synthetic.scene(0, "test", i) for i in range(6)]
    columns = {"lat": "latitude", "lon": "longitude", "time": "time"}
    return np.stack([patch.image for patch in patches]), {
        name: np.array([getattr(patch, column) for patch in patches]) for name, column in columns.items()
    }


def test_images_are_prepared_as_they_are_described(encoder, scenes):
    """`embed` hands its description to `preprocess.prepare`, and the result to the model with the encoded metadata."""
    images, location = scenes
    for fields, values in (
        ({}, images),
        (dict(bands=landsat.BANDS[::-1]), images[..., ::-1]),
        (dict(sensor="landsat7"), images[..., 1:]),
        (dict(unit="uint8", uint8_range=(0.1, 0.3)), (images // 256).astype(np.uint8)),
        (dict(unit="level1_dn", sun_elevation=np.linspace(20, 70, 6)), images),
    ):
        spec = preprocess.InputSpec(resize_mode="centre_crop", **fields)
        z, _ = encoder.prepare(values, spec)
        expected, _ = preprocess.prepare(values, spec, landsat.BANDS, 8, encoder.statistics)
        np.testing.assert_array_equal(z, expected)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", preprocess.StatisticsWarning)
            embedded = encoder.embed(values, **location, resize_mode="centre_crop", batch_size=4, **fields)
        tokens = np.asarray(encoder.apply_tokens(z, *metadata.encode(**location)).tokens)
        np.testing.assert_allclose(embedded, tokens.mean(axis=1), atol=1e-5, err_msg=str(fields))


def test_the_record_says_what_becomes_of_images(encoder):
    record = encoder.record(preprocess.InputSpec(unit="reflectance", sensor="landsat7", resize_mode="resize"))
    assert record["unit"] == "reflectance" and record["bands"] == ["B1", "B2", "B3", "B4", "B5", "B7"]
    assert record["sensor"] == "landsat7" and record["resize_mode"] == "resize"
    assert record["statistics"]["source"] == "published:bigearthnet_landsat" and record["statistics_unit"] == "collection2_dn"
    statistics = {"mean": [60.0] * 7, "std": [5.0] * 7, "source": "here"}
    record = encoder.record(preprocess.InputSpec(unit="uint8", statistics=statistics))
    assert record["statistics"] == statistics and record["statistics_unit"] == "uint8" and record["uint8_range"] == [0.0, 1.0]
    assert encoder.record(preprocess.InputSpec(unit="level1_dn", sun_elevation=40.0))["sun_elevation"] == 40.0


def test_embeddings_are_of_the_logarithm_where_the_encoders_statistics_are(encoder, scenes):
    """Of images in each unit and order of bands; their own statistics are of the numbers themselves all the same."""
    log, images = with_scale(encoder, "log"), scenes[0][:, 8:16, 8:16]
    z = ((on_scale(images, "log") - np.array(LOGARITHM.mean)) / np.array(LOGARITHM.std)).astype(np.float32)
    expected = log.embed(z, normalized=True, valid=(images != 0).all(axis=-1))
    np.testing.assert_allclose(log.embed(images), expected, atol=5e-5)
    reflectance = images * 0.0000275 - 0.2
    names = landsat.BANDS[::-1]
    np.testing.assert_allclose(log.embed(reflectance[..., ::-1], unit="reflectance", bands=names), expected, atol=2e-4)
    np.testing.assert_allclose(encoder.embed(images, statistics=dict(LOGARITHM)), expected, atol=5e-5)
    z, record = log.embed(images, statistics="computed", return_record=True)
    np.testing.assert_array_equal(z, encoder.embed(images, statistics="computed"))
    assert "scale" not in record["statistics"] and log.embed(images, return_record=True)[1]["statistics"]["scale"] == "log"
    with pytest.raises(ValueError, match="no band .* has a mean of -1.7; those of the logarithm .* 'scale': 'log'"):
        encoder.embed(images, statistics={"mean": list(LOGARITHM.mean), "std": list(LOGARITHM.std)})


def test_images_far_from_statistics_of_the_logarithm_raise_a_warning(encoder, scenes):
    """Of what is brighter, or darker than anything on Earth; water is dark, and far from nothing."""
    encoder = with_scale(encoder, "log")
    water = np.array([0.03, 0.035, 0.03, 0.015, 0.002, 0.004, 0.003])
    dark, bright = np.full((4, 8, 8, 7), 60, np.uint16), np.full((4, 8, 8, 7), 60000, np.uint16)
    some = np.full_like(dark, 14000)
    some[:, :4] = 5000  # a reflectance of -0.0625
    # exp(-1.5 - 0.35) - 0.1 and exp(-1.5 + 0.35) - 0.1 are reflectances of 0.0572 and 0.2166.
    for images, message in (
        (dark, "SR_B1: 100% of the pixels have a reflectance below -0.05"),
        (some, "SR_B7: 50% of the pixels have a reflectance below -0.05"),
        (bright, "SR_B7: mean 60000 where training had 935[34] to 1515[01]"),
    ):
        with pytest.warns(preprocess.StatisticsWarning, match=message):
            encoder.embed(images)
    few = np.full_like(dark, 14000)
    few[:, 0] = 5000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.embed(np.tile(water, (2, 8, 8, 1)), unit="reflectance")
        encoder.embed(few)
        encoder.embed(scenes[0], resize_mode="centre_crop")


def test_images_far_from_the_training_data_raise_a_warning(encoder, scenes):
    dark = np.full_like(scenes[0], 60)
    with pytest.warns(preprocess.StatisticsWarning, match=r"SR_B7: mean 60 where training had 7466 to 13727"):
        encoder.embed(dark, resize_mode="centre_crop")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.embed(scenes[0], resize_mode="centre_crop")
        statistics = {"mean": [60.0] * 7, "std": [5.0] * 7, "source": "here"}
        encoder.embed(dark, resize_mode="centre_crop", statistics=statistics)


def test_images_of_several_sizes(encoder, scenes):
    images, _ = scenes
    with pytest.raises(ValueError, match="44 x 44 pixels for a model of 8 x 8; pass resize_mode="):
        encoder.embed(images)
    mixed = encoder.embed([images[0], images[1, :30, :41]], resize_mode="resize")
    np.testing.assert_allclose(mixed[0], encoder.embed(images[:1], resize_mode="resize")[0], atol=1e-5)
    np.testing.assert_allclose(mixed[1], encoder.embed(images[1:2, :30, :41], resize_mode="resize")[0], atol=1e-5)


def test_what_would_be_ignored_is_refused(encoder, scenes):
    with pytest.raises(TypeError, match="units"):
        encoder.embed(scenes[0], units="reflectance")
    with pytest.raises(ValueError, match="unit would be ignored"):
        encoder.embed(np.zeros((1, 8, 8, 7)), normalized=True, unit="reflectance")


def test_routing_and_reconstruction(encoder, scenes):
    images, location = scenes
    routing = encoder.routing(images, **location, resize_mode="centre_crop")
    cfg = encoder.config
    assert [u.shape for u in routing.usage] == [(cfg.num_experts(i),) for i in range(cfg.depth)]
    assert all(u.sum() == pytest.approx(1) for u in routing.usage)
    top = routing.top1(1)
    assert top.shape == (6, 2, 2)
    assert top[0, 1, 0] == routing.gates[1][0, 5 + 2].argmax()
    result = encoder.reconstruct(images, **location, resize_mode="centre_crop", seed=1)
    assert result.error.shape == (6, 8, 8) and set(np.unique(result.mask)) == {0.0, 1.0}
    np.testing.assert_array_equal(result.masked[result.mask == 1], 0)


def test_embedding_on_several_devices_is_that_on_one(encoder, scenes, tmp_path):
    dn = np.concatenate([scenes[0][:, 8:16, 8:16]] * 3)[:13]
    np.savez(tmp_path / "in.npz", dn=dn, expected=encoder.embed(dn, lat=np.arange(13.0), lon=np.arange(13.0)))
    code = f"""
import jax, numpy as np, geomoe
assert len(jax.local_devices()) == 4
encoder, data = geomoe.load({str(DATA / "reference_tiny_random.pth")!r}), np.load({str(tmp_path / "in.npz")!r})
for size in (4, 5, 256):
    z = encoder.embed(data["dn"], lat=np.arange(13.0), lon=np.arange(13.0), batch_size=size)
    np.testing.assert_allclose(z, data["expected"], atol=1e-5)
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


@pytest.mark.parametrize("pool", ["mean", "tokens"])
def test_a_large_batch_goes_through_in_parts_and_gives_the_same(encoder, pool):
    images = np.random.default_rng(0).standard_normal((96, 8, 8, 7)).astype(np.float32)
    lat = np.linspace(-60, 60, 96)
    whole = encoder.embed(images, lat=lat, normalized=True, pool=pool, batch_size=96)
    assert images_at_once(96, 1) == (32 if jax.default_backend() == "cpu" else 96)
    for count in (5, 96):
        one_by_one = encoder.embed(images[:count], lat=lat[:count], normalized=True, pool=pool, batch_size=5)
        np.testing.assert_allclose(whole[:count], one_by_one, atol=2e-5)


def test_metadata_may_be_missing_for_each_image_on_its_own(encoder, scenes):
    images, location = scenes
    whole = encoder.embed(images, **location, resize_mode="centre_crop")
    lat, lon, time = list(location["lat"]), list(location["lon"]), list(location["time"])
    lat[0], lon[1], time[2], time[3] = None, float("nan"), None, np.datetime64("NaT")
    z = encoder.embed(images, lat, lon, time, resize_mode="centre_crop")
    assert (z[:4] != whole[:4]).any(axis=1).all()
    np.testing.assert_array_equal(z[4:], whole[4:])
    without = encoder.embed(images[3:4], lat[3:4], lon[3:4], None, resize_mode="centre_crop")
    np.testing.assert_allclose(z[3:4], without, atol=1e-5)


def test_any_number_of_images_gives_the_same_rows(encoder, scenes):
    images = scenes[0]
    whole = encoder.embed(images, resize_mode="centre_crop")
    for count in (1, 3, 5):
        np.testing.assert_allclose(encoder.embed(images[:count], resize_mode="centre_crop"), whole[:count], atol=1e-5)
    np.testing.assert_allclose(encoder.embed(images, resize_mode="centre_crop", batch_size=4), whole, atol=1e-5)
    assert encoder.embed(images[:0], resize_mode="centre_crop").shape == (0, 16)


def test_pools_are_made_of_named_parts(encoder, scenes):
    images, location = scenes
    encoded = metadata.encode(location["lat"], location["lon"], location["time"])
    z, _ = encoder.prepare(images, preprocess.InputSpec(resize_mode="centre_crop"))
    out = encoder.apply_tokens(z, *encoded)
    tokens, layers = np.asarray(out.tokens), [np.asarray(layer) for layer in out.layer_tokens]
    ends = [layers[i].mean(axis=1) for i in range(len(layers))]  # one block a stage in this model
    mean = tokens.mean(axis=1)
    expected = {
        "unit_mean": 4 * mean / np.linalg.norm(mean, axis=1, keepdims=True),  # D is 16
        "patch_mean": tokens[:, 5:].mean(axis=1),
        "patch_std": tokens[:, 5:].std(axis=1),
        "cls": tokens[:, 4],
        "metadata_tokens": tokens[:, :4].mean(axis=1),
        "stages": np.concatenate(ends, axis=1),
        "layer_mean": np.mean(ends, axis=0),
        "metadata": np.concatenate(encoded, axis=1),
    }
    expected["stages", "metadata"] = np.concatenate([expected["stages"], expected["metadata"]], axis=1)
    for pool, values in expected.items():
        embedded = encoder.embed(images, **location, pool=pool, resize_mode="centre_crop")
        assert embedded.shape == (6, pool_width(encoder.config, pool)) and embedded.dtype == np.float32
        np.testing.assert_allclose(embedded, values, atol=1e-5, err_msg=str(pool))
    assert encoder.embed(images[:0], pool="stages", resize_mode="centre_crop").shape == (0, 3 * encoder.embed_dim)
    for pool, message in (
        ("median", "'median' is not one of"),
        (("mean", "mean"), "twice"),
        (("mean", "tokens"), "joins with no other"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.embed(images, pool=pool, resize_mode="centre_crop")


def test_embedding_of_published_weights(encoder):
    golden = np.load(DATA / "golden_tiny.npz")
    images = golden["images_nchw"].transpose(0, 2, 3, 1)
    out = encoder.apply_tokens(images, *(golden[name] for name in ("week", "hour", "lat", "lon")))
    np.testing.assert_allclose(out.tokens, golden["encoder_tokens"], atol=2e-5)
    bare = golden["encoder_tokens_no_metadata"]
    tokens = encoder.embed(images, normalized=True, pool="tokens")
    np.testing.assert_allclose(tokens, bare, atol=2e-5)
    np.testing.assert_allclose(encoder.embed(images, normalized=True), bare.mean(axis=1), atol=2e-5)
    np.testing.assert_allclose(encoder.embed(images, normalized=True, pool="patch_mean"), bare[:, 5:].mean(axis=1), atol=2e-5)
    np.testing.assert_allclose(encoder.embed(images, normalized=True, pool="cls", batch_size=3), bare[:, 4], atol=2e-5)
    assert encoder.embed_dim == 16 and encoder.num_params == 8788


def test_digital_numbers_and_metadata_of_each_sample(encoder):
    rng = np.random.default_rng(0)
    dn = rng.integers(1, 30000, (3, 8, 8, 7)).astype(np.uint16)
    mean, std = (np.array(encoder.statistics[k]) for k in ("mean", "std"))
    time = np.array(["2017-06-13T10:00", "NaT", "2018-01-01T00:30"], "datetime64[m]")
    z = encoder.embed(dn, lat=[48.2, None, np.nan], lon=[16.4, 3.0, None], time=time)
    week, hour = geomoe.metadata.encode_time(time)
    lat, lon = (geomoe.metadata.encode_degrees(v) for v in ([48.2, np.nan, np.nan], [16.4, 3.0, np.nan]))
    out = encoder.apply_tokens((dn - mean) / std, week, hour, lat, lon)
    np.testing.assert_allclose(z, np.mean(out.tokens, axis=1), atol=2e-5)
    assert not week[1].any() and not lat[2].any() and lat[0].any()


def test_masked_degrees_are_missing(encoder):
    good = np.full((2, 8, 8, 7), 9000, np.uint16)
    masked = encoder.embed(good, lat=np.ma.MaskedArray([48.0, 10.0], [False, True]), lon=[11.0, 11.0])
    np.testing.assert_array_equal(masked, encoder.embed(good, lat=[48.0, np.nan], lon=[11.0, 11.0]))
    assert np.abs(masked - encoder.embed(good, lat=[48.0, 10.0], lon=[11.0, 11.0]))[1].max() > 1e-4


def test_bad_input_is_named(encoder):
    good = np.ones((2, 8, 8, 7), np.uint16)
    for arguments, message in (
        (dict(images=good[0], lat=[1.0]), r"images must be \(N, H, W, C\), got \(8, 8, 7\); images\[None\] is a batch of one"),
        (dict(images=good[..., :6]), r"\(N, H, W, 7\), got \(2, 8, 8, 6\)"),
        (dict(images=good[:, :7]), "images of 7 x 8 pixels for a model of 8 x 8"),
        (dict(images=good.astype(str)), "dtype"),
        (dict(images=good * np.float32("inf")), "infinite"),
        (dict(images=np.ma.masked_equal(good, 1), normalized=True), "normalized images are masked"),
        (dict(images=good, time=["2020-01-01", "now"]), r"time\[1\]: 'now' is no time"),
        (dict(images=good, time=[1497312000, 1497312000]), r"time\[0\]: must be datetime64"),
        (
            dict(images=good, time=np.array(["20170613"] * 2, "datetime64[s]")),
            r"time\[0\] = 20170613-.* is not from 1972 to 2099",
        ),
        (dict(images=good, time=["2020-01-01"]), r"time must be \(2,\)"),
        (dict(images=good, lat=[1.0]), r"lat must be \(2,\)"),
        (dict(images=good, lat=[1.0, 91.0], lon=[0, 0]), r"lat\[1\] = 91"),
        (dict(images=good, pool="max"), "pool = 'max'"),
        (dict(images=good[:, :0], resize_mode="resize"), r"an image of the shape \(0, 8, 7\) has no pixel"),
        (dict(images=good, unit="level1_dn", sun_elevation=[30.0] * 3), r"one for each of the 2 images, got \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.embed(**arguments)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        geomoe.load("nowhere")


def test_a_saved_run_is_the_encoder(encoder, tmp_path):
    """Weights, statistics, and whether it reconstructs normalised patches."""
    statistics = landsat.Statistics((9000.0,) * 7, (2000.0,) * 7, "of its own")
    original = geomoe.PretrainedEncoder(encoder.config, encoder.params, statistics, "somewhere", normalised_targets=True)
    original.save_run(tmp_path / "run")
    again = geomoe.load(tmp_path / "run")
    assert again.fingerprint == original.fingerprint and again.config == original.config
    assert again.statistics == statistics.of_collection2() and again.normalised_targets
    with pytest.raises(ValueError, match="holds a run already"):
        original.save_run(tmp_path / "run")


def test_masks_of_a_reconstruction_follow_from_the_seed(encoder, scenes):
    masks = [encoder.reconstruct(scenes[0], resize_mode="centre_crop", seed=seed).mask for seed in (0, 1, 0)]
    np.testing.assert_array_equal(masks[0], masks[2])
    assert not np.array_equal(masks[0], masks[1])
    parts = encoder.reconstruct(scenes[0], resize_mode="centre_crop", batch_size=3).mask
    assert not np.array_equal(parts[:3], parts[3:6])  # each batch has masks of its own


def test_each_image_of_a_list_has_its_own_sun(encoder, scenes):
    images = [(scenes[0][i, :size, :size] // 2 + 5000).astype(np.uint16) for i, size in ((0, 20), (1, 30))]
    options = dict(unit="level1_dn", resize_mode="centre_crop")
    both = encoder.embed(images, sun_elevation=np.array([30.0, 60.0]), **options)
    for row, image, elevation in zip(both, images, (30.0, 60.0), strict=True):
        np.testing.assert_allclose(row, encoder.embed(image[None], sun_elevation=elevation, **options)[0], atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "tokens", ("mean", "metadata")])
def test_an_image_without_any_data_has_no_embedding(encoder, pool):
    images = np.random.default_rng(0).integers(8000, 20000, (3, 8, 8, 7)).astype(np.uint16)
    images[1] = 0
    z = encoder.embed(images, 50.0 + np.arange(3), [9.0] * 3, ["2020-05-01"] * 3, pool)
    assert np.isnan(z[1]).all() and np.isfinite(z[[0, 2]]).all()
    assert np.isnan(encoder.embed(images[1:2], pool=pool)).all()
    assert np.isfinite(encoder.embed(images, pool=pool, nodata="published")).all()


def test_pixels_without_data_do_not_speak(encoder):
    """Whatever lies under zeros, masks and `valid`; "published" lets them speak as they always did."""
    rng = np.random.default_rng(3)
    dn = rng.integers(7000, 15000, (3, 8, 8, 7)).astype(np.uint16)
    holds = np.ones((3, 8, 8), bool)
    holds[0, :4] = holds[1, 2:5, 2:5] = False  # the third image is whole
    empty = np.where(holds[..., None], dn, 0).astype(np.uint16)
    z = encoder.embed(empty)
    np.testing.assert_allclose(encoder.embed(dn, valid=holds), z, atol=1e-6)
    np.testing.assert_allclose(encoder.embed(np.ma.array(dn, mask=np.broadcast_to(~holds[..., None], dn.shape))), z, atol=1e-6)
    np.testing.assert_allclose(encoder.embed(list(dn), valid=list(holds)), z, atol=1e-6)
    for other in (np.where(holds, 1.0, np.nan), np.ma.MaskedArray(np.ones(holds.shape, bool), ~holds)):
        np.testing.assert_allclose(encoder.embed(dn, valid=other), z, atol=1e-6)
    clouds = np.where(holds[..., None], dn, 60000).astype(np.uint16)
    np.testing.assert_allclose(encoder.embed(clouds, valid=holds), z, atol=1e-6)
    np.testing.assert_allclose(z[2:], encoder.embed(dn[2:]), atol=1e-6)
    mean, std = (np.array(encoder.statistics[k]) for k in ("mean", "std"))
    none = np.zeros((3, 2), np.float32)
    tokens = encoder.apply_tokens((empty - mean) / std, none, none, none, none).tokens
    published = encoder.embed(empty, nodata="published")
    np.testing.assert_allclose(published, np.mean(tokens, axis=1), atol=2e-5)
    assert np.abs(published - z)[:2].max() > 0.1
    images = ((dn - mean) / std).astype(np.float32)
    np.testing.assert_allclose(encoder.embed(images, normalized=True, valid=holds), z, atol=1e-5)
    sizes = [np.pad(image, ((0, 2), (0, 2), (0, 0)), mode="edge") for image in dn[:1]] + list(dn[1:])
    masks = [np.pad(mask, ((0, 2), (0, 2)), mode="edge") for mask in holds[:1]] + list(holds[1:])
    several = encoder.embed(sizes, valid=masks, resize_mode="centre_crop")
    np.testing.assert_allclose(several[1:], z[1:], atol=1e-6)
    for arguments, message in (
        (dict(valid=holds[:2]), "valid must be one for each pixel of the 3 images"),
        (dict(valid=holds[:, :4]), r"valid must be \(3, 8, 8\)"),
        (dict(valid=holds, nodata="published"), "valid would be ignored"),
        (dict(nodata="zero"), "nodata = 'zero' is not one of masked, published"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.embed(dn, **arguments)
    assert encoder.routing(empty).gates[0][0].any(axis=-1).sum() < encoder.config.num_tokens
    assert np.isfinite(encoder.reconstruct(empty).reconstruction).all()


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("decoder", lambda a: a * np.nan, "decoder/pred/kernel holds NaN or infinite"),
        ("decoder", lambda a: a[:, :-1], r"decoder/pred/kernel has the shape .*needs \("),
        ("encoder", lambda a: np.where(a == a.max(), np.inf, a), "encoder/patch_proj/kernel holds NaN or infinite"),
        ("encoder", lambda a: a[None], "encoder/patch_proj/kernel has the shape"),
        ("encoder", lambda a: None, "encoder/patch_proj/kernel is absent"),
    ],
)
def test_a_run_with_damaged_weights_is_refused_by_parameter(encoder, tmp_path, part, change, message):
    params = jax.tree.map(np.asarray, encoder.params)
    layer = params[part]["pred" if part == "decoder" else "patch_proj"]
    layer["kernel"] = change(layer["kernel"])
    if layer["kernel"] is None:
        del layer["kernel"]
    dataclasses.replace(encoder, params=params).save_run(tmp_path / "run")
    with pytest.raises(ValueError, match=f"run step 0: .*{message}"):
        geomoe.load(tmp_path / "run")


def test_a_warning_names_the_unit_that_was_taken(encoder):
    with pytest.warns(preprocess.StatisticsWarning, match="Is unit='collection2_dn' what they are"):
        encoder.embed(np.full((2, 8, 8, 7), 60000, np.uint16))


def test_a_window_without_data_has_no_embedding_whatever_speaks(encoder):
    scene = np.random.default_rng(0).integers(7000, 20000, (8, 16, 7)).astype(np.uint16)
    scene[:, :8] = 0
    z = encoder.embed_scene(scene, stride=8, min_valid=0.0, nodata="published")
    assert np.isnan(z[0, 0]).all() and np.isfinite(z[0, 1]).all()


def test_what_xarray_says_counts_for_reconstructions_and_routing_too(encoder):
    """Bands in another order, a place and a time."""
    xarray = pytest.importorskip("xarray")
    images = np.random.default_rng(0).integers(7000, 20000, (2, 8, 8, 7)).astype(np.uint16)
    times = np.array(["2020-05-01T10:00", "2020-07-02T10:10"], "datetime64[ns]")
    coords = {"band": list(landsat.BANDS[::-1]), "time": times, "latitude": 47.5, "longitude": 11.0}
    labelled = xarray.DataArray(images[..., ::-1], dims=("time", "y", "x", "band"), coords=coords)
    where = dict(lat=[47.5] * 2, lon=[11.0] * 2, time=times)
    one, two = encoder.reconstruct(labelled), encoder.reconstruct(images, **where)
    for a, b in zip(one, two):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(one.reconstruction - encoder.reconstruct(images).reconstruction).max() > 1e-4
    for a, b in zip(encoder.routing(labelled).gates, encoder.routing(images, **where).gates):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_image_is_nothing_to_reconstruct_or_route(encoder):
    for use, message in ((encoder.reconstruct, "no image to reconstruct"), (encoder.routing, "no image whose tokens")):
        with pytest.raises(ValueError, match=message):
            use(np.zeros((0, 8, 8, 7), np.uint16))


def z_scored(images, holds):
    """By the mean and standard deviation of the pixels that hold data; and these."""
    pixels = images[holds].astype(np.float64)
    mean, std = pixels.mean(axis=0), pixels.std(axis=0)
    return ((images - mean) / std).astype(np.float32), mean, std


def test_images_are_z_scored_by_their_own_statistics_where_asked(encoder, scenes, monkeypatch):
    monkeypatch.setattr(preprocess, "_PIXELS", 20)  # at once: two rows of an image
    images = scenes[0][:, 8:16, 8:16].copy()
    images[0, :3] = 0
    valid = np.ones(images.shape[:3], bool)
    valid[1, 2:5] = False
    holds = valid & (images != 0).all(axis=-1)
    z, mean, std = z_scored(images, holds)
    embedded, record = encoder.embed(images, statistics="computed", valid=valid, batch_size=2, return_record=True)
    z[~holds] = 0  # which the encoder fills in
    np.testing.assert_allclose(embedded, encoder.embed(z, normalized=True, valid=holds), atol=2e-5)
    np.testing.assert_allclose(record["statistics"]["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(record["statistics"]["std"], std, rtol=1e-6)
    assert record["statistics"]["source"] == "computed:these images" and record["statistics_unit"] == "collection2_dn"
    assert not np.allclose(embedded, encoder.embed(images, valid=valid), atol=1e-2)
    routed, by_record = (
        encoder.routing(images, statistics=statistics).gates[0]
        for statistics in ("computed", encoder.embed(images, statistics="computed", return_record=True)[1]["statistics"])
    )
    np.testing.assert_allclose(routed, by_record, atol=1e-6)


def test_own_statistics_of_images_of_several_sizes(encoder, scenes):
    images = [scenes[0][0, :9, :8], scenes[0][1, :12, :30]]
    pixels = np.concatenate([image[(image != 0).all(axis=-1)] for image in images]).astype(np.float64)
    _, record = encoder.embed(images, statistics="computed", resize_mode="resize", return_record=True)
    np.testing.assert_allclose(record["statistics"]["mean"], pixels.mean(axis=0))
    np.testing.assert_allclose(record["statistics"]["std"], pixels.std(axis=0))


def test_own_statistics_are_of_the_bands_that_the_model_takes(encoder, scenes):
    """Bytes of six bands and a seventh that is no band of the model's, in which nothing changes; by name in any order."""
    byte = np.maximum(scenes[0][:, 8:16, 8:16, 1:] // 256, 1).astype(np.uint8)
    z, mean, std = z_scored(byte, np.ones(byte.shape[:3], bool))
    expected = encoder.embed(np.concatenate([z[..., :1], z], axis=-1), normalized=True)
    more = np.concatenate([np.full_like(byte[..., :1], 7), byte[..., ::-1]], axis=-1)
    options = dict(unit="uint8", sensor="landsat7", statistics="computed")
    np.testing.assert_allclose(encoder.embed(byte, **options), expected, atol=1e-4)
    names = ["QA_PIXEL", "B7", "B5", "B4", "B3", "B2", "B1"]
    embedded, record = encoder.embed(more, bands=names, return_record=True, **options)
    np.testing.assert_allclose(embedded, expected, atol=1e-4)
    scale = 1 / 254 / 0.0000275  # of a byte, to Collection 2
    np.testing.assert_allclose(record["statistics"]["std"], scale * std[[0, *range(6)]], rtol=1e-5)
    np.testing.assert_allclose(record["statistics"]["mean"], (0.2 / 0.0000275 + scale * (mean - 1))[[0, *range(6)]], rtol=1e-5)
    again = encoder.embed(byte, unit="uint8", sensor="landsat7", statistics=record["statistics"])
    np.testing.assert_allclose(again, expected, atol=1e-4)


@pytest.mark.parametrize("pixels", [40, 130, 1000])  # that are converted at once: less than an image, two of them, all
def test_own_statistics_are_of_reflectance_under_each_images_sun(encoder, scenes, pixels, monkeypatch):
    """Ground under several suns has one embedding; given numbers of Collection 2 go for every unit."""
    monkeypatch.setattr(preprocess, "_PIXELS", pixels)
    ground, suns = scenes[0][:3, 8:16, 8:16], np.array([25.0, 60.0, 41.0])
    reflectance = np.maximum(ground, 7500).astype(np.float64) * 0.0000275 - 0.2
    level1 = (reflectance * np.sin(np.radians(suns))[:, None, None, None] + 0.1) / 2e-5
    expected, record = encoder.embed(reflectance, unit="reflectance", statistics="computed", return_record=True)
    options = dict(unit="level1_dn", sun_elevation=suns)
    for statistics in ("computed", record["statistics"]):
        np.testing.assert_allclose(encoder.embed(level1, statistics=statistics, **options), expected, atol=1e-3)
    in_lists = encoder.embed([*level1], statistics="computed", resize_mode="resize", **options)
    np.testing.assert_allclose(in_lists, expected, atol=1e-3)


@pytest.mark.parametrize("unit", ["reflectance", "hls"])
@pytest.mark.parametrize("statistics", ["computed", "given"])
def test_pixels_without_data_that_speak_are_as_dark_in_every_unit(encoder, scenes, unit, statistics):
    dn = np.maximum(scenes[0][:2, 8:16, 8:16], 7500)
    scale, offset = {"reflectance": (0.0000275, -0.2), "hls": (0.275, -2000)}[unit]
    values = dn * scale + offset
    own = {"mean": values.mean(axis=(0, 1, 2)), "std": values.std(axis=(0, 1, 2))}
    of_dn = {name: list((number - offset * (name == "mean")) / scale) for name, number in own.items()}
    dn[0, :3], values[0, :3] = 0, np.nan if unit == "reflectance" else -9999
    asked = lambda numbers: "computed" if statistics == "computed" else numbers
    expected = encoder.embed(dn, nodata="published", statistics=asked(of_dn))
    z = encoder.embed(values, unit=unit, nodata="published", statistics=asked(own))
    np.testing.assert_allclose(z, expected, atol=2e-3)


def test_own_statistics_that_cannot_be_computed_are_refused(encoder, scenes):
    images = scenes[0][:, 8:16, 8:16]
    for given, message in (
        (dict(images=np.full_like(images, 900)), "'computed' of these images: .* one number, 900, in band 1"),
        (dict(images=images, valid=np.ones((6, 8, 7), bool)), r"valid must be \(6, 8, 8\)"),
        (dict(images=images.astype(np.float32) / 1e6), "no digital numbers; for reflectance pass unit"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.embed(statistics="computed", **given)
    with pytest.raises(ValueError, match="statistics = 'own' is neither a mapping"):
        encoder.embed(images, statistics="own")
    six = {"mean": [1.0] * 6, "std": [1.0] * 6, "unit": "collection2_dn"}
    with pytest.raises(ValueError, match="statistics hold 6 bands where the model takes 7"):
        encoder.embed(images, statistics=six)
    for use in (encoder.record, lambda spec: encoder.prepare(images, spec)):
        with pytest.raises(ValueError, match="'computed' are those of images"):
            use(preprocess.InputSpec(statistics="computed"))


def test_images_of_which_nothing_holds_data_have_no_own_statistics_and_no_embedding(encoder, scenes):
    blank = scenes[0][:, 8:16, 8:16] * 0
    assert np.isnan(encoder.embed(blank, statistics="computed")).all()
    assert encoder.embed(blank[:0], statistics="computed").shape == (0, 16)
    assert np.isnan(encoder.embed_scene(blank[0], statistics="computed")).all()


def test_bands_that_the_model_does_not_take_say_nothing_of_a_scene_in_memory(encoder, scenes):
    scene = scenes[0][0, :20, :24]
    more = np.concatenate([scene, np.zeros_like(scene[..., :1])], axis=-1)
    bands = (*landsat.BANDS, "QA_RADSAT")
    for options in ({}, {"statistics": "computed"}):
        np.testing.assert_array_equal(
            encoder.embed_scene(more, bands=bands, **options), encoder.embed_scene(scene, bands=landsat.BANDS, **options)
        )


def test_own_statistics_of_a_scene_in_memory_are_of_all_its_dates(encoder, scenes):
    dates = scenes[0][:2, :20, :24].copy()
    dates[0, :9, :9] = 0
    _, mean, std = z_scored(dates, (dates != 0).all(axis=-1) & (np.arange(24) < 20))
    given = {"mean": mean.tolist(), "std": std.tolist()}
    valid = np.ones(dates.shape[:3], bool)
    valid[:, :, 20:] = False
    z, record = encoder.embed_scene(dates, statistics="computed", valid=valid, return_record=True)
    np.testing.assert_allclose(z, encoder.embed_scene(dates, statistics=given, valid=valid), atol=1e-5)
    np.testing.assert_allclose(record["statistics"]["mean"], mean)


def test_statistics_of_an_encoder_are_of_collection_2_whether_its_file_says_so_or_not(encoder, scenes):
    """Those in a record, as every older version wrote them, go for images of any unit."""
    without = {name: value for name, value in dict(encoder.statistics).items() if name != "unit"}
    older = dataclasses.replace(encoder, statistics=landsat.Statistics.of(without))
    reflectance = np.maximum(scenes[0][:, 8:16, 8:16], 7500) * 0.0000275 - 0.2
    expected, record = older.embed(reflectance, unit="reflectance", return_record=True)
    assert older.statistics == encoder.statistics and record["statistics_of"] == "encoder"
    given, again = older.embed(reflectance, unit="reflectance", statistics=record["statistics"], return_record=True)
    np.testing.assert_array_equal(given, expected)
    assert again == record


@pytest.mark.parametrize("size", [None, 0, 2.5, "8"])
def test_a_batch_size_is_a_whole_number(encoder, size):
    images = np.full((2, 8, 8, 7), 9000, np.uint16)
    for call in (encoder.embed, encoder.reconstruct, encoder.routing, lambda x, **k: encoder.embed_scene(x[0], **k)):
        with pytest.raises(ValueError, match=f"batch_size = {size} must be a whole number, 1 or more"):
            call(images, batch_size=size)
    np.testing.assert_array_equal(encoder.embed(images, batch_size=np.int64(1)), encoder.embed(images, batch_size=1))


def test_a_scene_without_a_place_may_say_so_as_images_do(encoder):
    scene = np.random.default_rng(0).integers(7000, 20000, (8, 16, 7)).astype(np.uint16)
    unknown, place = encoder.embed_scene(scene), encoder.embed_scene(scene, lat=48.0, lon=11.0)
    assert np.abs(unknown - place).max() > 1e-4
    for missing in (pd.NA, np.nan, np.ma.MaskedArray(48.0, True)):
        np.testing.assert_array_equal(encoder.embed_scene(scene, lat=missing, lon=missing), unknown)
    half = encoder.embed_scene(scene, lat=48.0, lon=pd.NA)
    np.testing.assert_array_equal(half, encoder.embed_scene(scene, lat=48.0))
    with pytest.raises(ValueError, match="lat: .*north"):
        encoder.embed_scene(scene, lat="north", lon=11.0)

"""Images as users have them: units, bands, sizes; and what the encoder tells of them."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from conftest import DATA, ROOT

import geomoe
from geomoe import landsat, metadata
from geomoe.analysis import ablation_effects, contribution_norms
from geomoe.compilation import images_at_once
from geomoe.data import preprocess, synthetic
from geomoe.models.pooling import pool_width


@pytest.fixture(scope="module")
def encoder():
    return geomoe.load(DATA / "reference_tiny_random.pth")  # 8 x 8 pixels


@pytest.fixture(scope="module")
def scenes():
    made = [synthetic.scene(0, "test", i) for i in range(6)]
    images = np.stack([m.image for m in made])
    return images, {
        "lat": np.array([m.latitude for m in made]),
        "lon": np.array([m.longitude for m in made]),
        "time": np.array([m.time for m in made]),
    }


def other_units(images):
    """The same ground in every unit, by the formulas of the products' handbooks, with their rounding."""
    reflectance = np.where(images == 0, np.nan, images * 0.0000275 - 0.2).astype(np.float32)
    level1 = (reflectance * np.sin(np.radians(50.0)) + 0.1) / 2.0e-5
    eight_bit = 1 + 254 * (np.clip(reflectance, 0, 1))
    return {
        "reflectance": (reflectance, {}, 1e-4),
        "level1_dn": (np.nan_to_num(level1).round().astype(np.uint16), {"sun_elevation": 50.0}, 1e-3),
        "uint8": (np.nan_to_num(eight_bit).round().astype(np.uint8), {}, 0.1),
    }


@pytest.mark.parametrize("unit", ["reflectance", "level1_dn", "uint8"])
def test_the_unit_does_not_change_the_embedding(encoder, scenes, unit):
    images, place = scenes
    wanted = encoder.embed(images, **place, resize_mode="centre_crop")
    given, options, tolerance = other_units(images)[unit]
    z = encoder.embed(given, **place, resize_mode="centre_crop", unit=unit, **options)
    np.testing.assert_allclose(z, wanted, atol=tolerance)
    assert encoder.input_record["unit"] == unit and encoder.input_record["statistics"]["source"].startswith("published")


def test_bands_go_by_name(encoder, scenes):
    images, place = scenes
    wanted = encoder.embed(images, **place, resize_mode="centre_crop")
    names = ["swir2", "B1", "SR_B4", "blue", "nir", "B3", "SR_B6"]
    order = [6, 0, 3, 1, 4, 2, 5]
    np.testing.assert_array_equal(encoder.embed(images[..., order], **place, resize_mode="centre_crop", bands=names), wanted)
    extra = np.concatenate([images, images[..., :1]], axis=-1)
    with pytest.raises(ValueError, match="unknown band 'ST_B10'"):
        encoder.embed(extra, resize_mode="centre_crop", bands=(*landsat.BANDS, "ST_B10"))
    six = dict(images=images[..., 1:], resize_mode="centre_crop", bands=("B2", "B3", "B4", "B5", "B6", "B7"))
    with pytest.raises(ValueError, match=r"SR_B1 \(coastal aerosol\), which the images lack"):
        encoder.embed(**six)
    mean = images.astype(np.float32)
    mean[..., 0] = encoder.statistics["mean"][0]
    np.testing.assert_allclose(
        encoder.embed(**six, fill_missing=True), encoder.embed(mean, resize_mode="centre_crop"), atol=1e-5
    )


def test_sizes_are_fitted_only_when_asked(encoder, scenes):
    images, _ = scenes
    with pytest.raises(ValueError, match="44 x 44 pixels for a model of 8 x 8; pass resize_mode="):
        encoder.embed(images)
    cropped = encoder.embed(images[:, 18:26, 18:26])
    np.testing.assert_array_equal(encoder.embed(images, resize_mode="centre_crop"), cropped)
    mixed = encoder.embed([images[0], images[1, :30, :41]], resize_mode="resize")
    np.testing.assert_allclose(mixed[0], encoder.embed(images[:1], resize_mode="resize")[0], atol=1e-5)


def test_resizing_is_that_of_the_pipeline():
    tf = pytest.importorskip("tensorflow")
    image = np.random.default_rng(0).uniform(0, 60000, (1, 22, 31, 7)).astype(np.float32)
    ours = preprocess.fit_size(image, 40, "resize")
    np.testing.assert_allclose(ours, tf.image.resize(image, (40, 40), "bilinear"), rtol=1e-4)


def test_wrong_units_are_named(encoder, scenes):
    images = scenes[0]
    for given, options, message in (
        (images, dict(unit="dn"), "unit = 'dn' is not one of collection2_dn"),
        (images.astype(np.float32) * 2.75e-5, {}, "no digital numbers; for reflectance pass unit='reflectance'"),
        (images.astype(np.float32), dict(unit="reflectance"), "no reflectance"),
        (images, dict(unit="reflectance"), "needs float images"),
        (images, dict(unit="uint8"), "beyond the 0 to 255"),
        (images.astype(np.int32) - 20000, {}, "beyond the 0 to 65535"),
        (images, dict(sun_elevation=40.0), "sun_elevation is for unit='level1_dn'"),
        (images, dict(unit="level1_dn", sun_elevation=-3.0), "sun_elevation = -3.0"),
        (images, dict(bands="B1"), "sequence of names"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.embed(given, resize_mode="centre_crop", **options)
    with pytest.raises(TypeError, match="unknown argument 'units'"):
        encoder.embed(images, units="reflectance")
    with pytest.raises(ValueError, match="unit would be ignored"):
        encoder.embed(np.zeros((1, 8, 8, 7)), normalized=True, unit="reflectance")


def test_images_far_from_the_training_data_raise_a_warning_with_both_numbers(encoder, scenes):
    images = scenes[0]
    with pytest.warns(preprocess.StatisticsWarning, match=r"SR_B7: mean 60 where training had 10596 \+- 3131"):
        encoder.embed(np.full_like(images, 60), resize_mode="centre_crop")
    own = {"mean": [60.0] * 7, "std": [5.0] * 7, "source": "mine"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.embed(images, resize_mode="centre_crop")
        encoder.embed(np.full_like(images, 60), resize_mode="centre_crop", statistics=own)
    assert encoder.input_record["statistics"] == own


def test_metadata_may_be_missing_for_each_image_on_its_own(encoder, scenes):
    images, place = scenes
    whole = encoder.embed(images, **place, resize_mode="centre_crop")
    lat, lon, time = list(place["lat"]), list(place["lon"]), list(place["time"])
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


def test_clouds_in_quality_bands():
    qa = np.array([0, 1 << 1, 1 << 3, 1 << 4, 1 << 6], np.uint16)
    np.testing.assert_array_equal(landsat.is_cloud(qa, "QA_PIXEL"), [False, True, True, True, False])
    np.testing.assert_array_equal(landsat.is_cloud(np.array([1 << 14, 2 << 14, 3 << 14]), "BQA"), [False, False, True])


def test_routing_and_reconstruction(encoder, scenes):
    images, place = scenes
    routing = encoder.routing(images, **place, resize_mode="centre_crop")
    cfg = encoder.config
    assert [u.shape for u in routing.usage] == [(cfg.num_experts(i),) for i in range(cfg.depth)]
    assert all(u.sum() == pytest.approx(1) for u in routing.usage)
    top = routing.top1(1)
    assert top.shape == (6, 2, 2)
    assert top[0, 1, 0] == routing.gates[1][0, 5 + 2].argmax()
    painted = encoder.reconstruct(images, **place, resize_mode="centre_crop", seed=1)
    assert painted.error.shape == (6, 8, 8) and set(np.unique(painted.mask)) == {0.0, 1.0}
    np.testing.assert_array_equal(painted.masked[painted.mask == 1], 0)


def test_contributions_add_up_and_unused_experts_have_no_effect(encoder, scenes):
    images, place = scenes
    z, _ = encoder.prepare(images, preprocess.InputSpec(resize_mode="centre_crop"))
    batch = {"image": z, **geomoe.metadata.encode(**place)._asdict()}
    gates = encoder.routing(images, **place, resize_mode="centre_crop").gates
    for layer in (0, 2):
        norms = contribution_norms(encoder, batch, layer)
        assert ((norms > 0) == (gates[layer] > 0)).all()
    effects = ablation_effects(encoder, batch, 2)  # the last layer: each token feels its own experts alone
    chosen = gates[2][:, 5:].transpose(2, 0, 1).reshape(effects.shape) > 0
    assert ((effects > 0) == chosen).all()
    with pytest.raises(ValueError, match="layer 9"):
        contribution_norms(encoder, batch, 9)


def test_embedding_on_several_devices_is_that_on_one(encoder, scenes, tmp_path):
    dn = np.concatenate([scenes[0][:, 8:16, 8:16]] * 3)[:13]
    np.savez(tmp_path / "in.npz", dn=dn, wanted=encoder.embed(dn, lat=np.arange(13.0), lon=np.arange(13.0)))
    code = f"""
import jax, numpy as np, geomoe
assert len(jax.local_devices()) == 4
encoder, data = geomoe.load({str(DATA / "reference_tiny_random.pth")!r}), np.load({str(tmp_path / "in.npz")!r})
for size in (4, 5, 256):
    z = encoder.embed(data["dn"], lat=np.arange(13.0), lon=np.arange(13.0), batch_size=size)
    np.testing.assert_allclose(z, data["wanted"], atol=1e-5)
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


@pytest.mark.parametrize("pool", ["mean", "tokens"])
def test_a_large_batch_goes_through_in_parts_and_gives_the_same(encoder, pool):
    images = np.random.default_rng(0).standard_normal((96, 8, 8, 7)).astype(np.float32)
    lat = np.linspace(-60, 60, 96)
    whole = encoder.embed(images, lat=lat, normalized=True, pool=pool, batch_size=96)
    assert images_at_once(96, 1) == 32
    for count in (5, 96):
        one_by_one = encoder.embed(images[:count], lat=lat[:count], normalized=True, pool=pool, batch_size=5)
        np.testing.assert_allclose(whole[:count], one_by_one, atol=2e-5)


def test_sensors_without_the_coastal_band(encoder, scenes):
    """Landsat 7's numbers, colours and Landsat 8's names are one; the blue band stands in for the coastal."""
    images, place = scenes
    options = dict(resize_mode="centre_crop", **place)
    six = images[..., 1:]
    z = encoder.embed(six, sensor="landsat7", **options)
    assert encoder.input_record["sensor"] == "landsat7" and encoder.input_record["bands"] == list(landsat.TM_BANDS)
    colours = ("swir2", "nir", "blue", "green", "red", "swir1")
    shuffled = six[..., [5, 3, 0, 1, 2, 4]]
    np.testing.assert_allclose(encoder.embed(shuffled, sensor="landsat5", bands=colours, **options), z, atol=1e-5)
    mean, std = (np.asarray(encoder.statistics[key]) for key in ("mean", "std"))
    stand_in = (six[..., :1] - mean[1]) / std[1] * std[0] + mean[0]
    np.testing.assert_allclose(encoder.embed(np.concatenate([stand_in, six], axis=-1), **options), z, atol=1e-3)
    with pytest.raises(ValueError, match=r"N, H, W, 6.*landsat7 has B1, B2, B3, B4, B5, B7"):
        encoder.embed(images, sensor="landsat7", **options)
    with pytest.raises(ValueError, match="unknown band 'B6'; the bands of landsat7 are B1"):
        encoder.embed(six, sensor="landsat7", bands=("B1", "B2", "B3", "B4", "B5", "B6"), **options)
    with pytest.raises(ValueError, match="level-1 numbers of landsat7 have other factors"):
        encoder.embed(six, sensor="landsat7", unit="level1_dn", **options)
    with pytest.raises(ValueError, match="sensor = 'sentinel2'"):
        encoder.embed(images, sensor="sentinel2", **options)


def test_names_of_bands_and_products():
    assert [landsat.band_name(name, "landsat7") for name in ("B4", "SR_B4", "nir", "B7")] == ["SR_B5"] * 3 + ["SR_B7"]
    assert [landsat.band_name(name) for name in ("B4", "SR_B4", "red", "B04")] == ["SR_B4"] * 4
    names = ("LE07_L2SP_199026_20020802_20200916_02_T1", "LT51990261990", "LC09_L2SP", "S2A_MSIL2A")
    assert [landsat.sensor_of(name) for name in names] == ["landsat7", "landsat5", "landsat9", None]
    with pytest.raises(ValueError, match="unknown band 'coastal'; the bands of landsat5"):
        landsat.band_name("coastal", "landsat5")


def test_pools_are_made_of_named_parts(encoder, scenes):
    images, place = scenes
    pairs = metadata.encode(place["lat"], place["lon"], place["time"])
    z, _ = encoder.prepare(images, preprocess.InputSpec(resize_mode="centre_crop"))
    out = encoder.apply_tokens(z, *pairs)
    tokens, layers = np.asarray(out.tokens), [np.asarray(layer) for layer in out.layer_tokens]
    ends = [layers[i].mean(axis=1) for i in range(len(layers))]  # one block a stage in this model
    mean = tokens.mean(axis=1)
    expected = {
        "unit_mean": 4 * mean / np.linalg.norm(mean, axis=1, keepdims=True),  # D is 16
        "patch_mean": tokens[:, 5:].mean(axis=1),
        "patch_std": tokens[:, 5:].std(axis=1),
        "cls": tokens[:, 4],
        "stages": np.concatenate(ends, axis=1),
        "layer_mean": np.mean(ends, axis=0),
        "metadata": np.concatenate(pairs, axis=1),
    }
    expected["stages+metadata"] = np.concatenate([expected["stages"], expected["metadata"]], axis=1)
    for pool, values in expected.items():
        found = encoder.embed(images, **place, pool=pool, resize_mode="centre_crop")
        assert found.shape == (6, pool_width(encoder.config, pool)) and found.dtype == np.float32
        np.testing.assert_allclose(found, values, atol=1e-5, err_msg=pool)
    assert encoder.embed(images[:0], pool="stages", resize_mode="centre_crop").shape == (0, 3 * encoder.embed_dim)
    for pool, message in (("median", "'median' is not one of"), ("mean+mean", "twice"), ("mean+tokens", "joins with no other")):
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            encoder.embed(images, pool=pool, resize_mode="centre_crop")

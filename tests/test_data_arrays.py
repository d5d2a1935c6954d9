"""Images in memory as xarray, torch and pandas hold them: what they say of themselves, and what comes back."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from geomoe import landsat
from geomoe.data.arrays import read_xarray
from geomoe.data.preprocess import InputSpec

rioxarray = pytest.importorskip("rioxarray", reason="needs rioxarray")
RNG = np.random.default_rng(0)
SIZE = 8
TIMES = np.array(["2020-05-01T10:00", "2020-07-02T10:10", "2020-08-03T10:20"], "datetime64[ns]")


def numbers(*shape):
    return RNG.integers(8000, 20000, shape).astype(np.uint16)


def stack(images, dims=("time", "band", "y", "x"), crs="EPSG:32632", **coords):
    """A DataArray of (T, C, H, W) digital numbers, 30 m a pixel, with rioxarray's georeference."""
    height, width = images.shape[-2:]
    place = {"y": 5_400_000.0 - 30 * np.arange(height), "x": 600_000.0 + 30 * np.arange(width)}
    array = xr.DataArray(
        images, dims=dims, coords={"time": TIMES[: len(images)], "band": list(landsat.BANDS), **place, **coords}
    )
    return array.rio.write_crs(crs)


def lat_lon(row, column, crs="EPSG:32632"):
    from rasterio.warp import transform

    lon, lat = transform(crs, "EPSG:4326", [600_000.0 + 30 * column], [5_400_000.0 - 30 * row])
    return lat[0], lon[0]


def test_a_data_array_says_its_bands_times_and_place(encoder):
    images = numbers(3, 7, SIZE, SIZE)
    lat, lon = lat_lon(3.5, 3.5)
    expected = encoder.embed(images.transpose(0, 2, 3, 1), [lat] * 3, [lon] * 3, TIMES)
    z = encoder.embed(stack(images))
    assert isinstance(z, xr.DataArray) and z.dims == ("time", "embedding") and z.name == "embedding"
    np.testing.assert_allclose(z.values, expected, atol=1e-5)
    np.testing.assert_array_equal(z.time.values, TIMES)
    assert "band" not in z.coords and json.loads(z.attrs["input"])["bands"] == list(landsat.BANDS)
    without = encoder.embed(images.transpose(0, 2, 3, 1))
    assert not np.allclose(without, expected, atol=1e-3)  # the metadata counts
    shuffled = stack(images).isel(band=[3, 1, 0, 6, 5, 4, 2]).transpose("x", "band", "time", "y")
    np.testing.assert_allclose(encoder.embed(shuffled).values, expected, atol=1e-5)
    one = encoder.embed(stack(images).isel(time=1))
    assert one.dims == ("embedding",) and one.time.values == TIMES[1]
    np.testing.assert_allclose(one.values, expected[1], atol=1e-5)
    told = encoder.embed(stack(images), lat=[1.0] * 3, lon=[2.0] * 3, time=["2021-01-01T00:00:00"] * 3)
    same = encoder.embed(images.transpose(0, 2, 3, 1), [1.0] * 3, [2.0] * 3, ["2021-01-01T00:00:00"] * 3)
    np.testing.assert_allclose(told.values, same, atol=1e-5)
    tokens, record = encoder.embed(stack(images), pool="tokens", return_record=True)
    assert tokens.dims == ("time", "token", "embedding") and tokens.shape == (3, 9, 16) and record["unit"] == "collection2_dn"


def test_a_mask_goes_with_its_coordinates(encoder):
    images = numbers(3, 7, SIZE, SIZE)
    array = stack(images)
    valid = np.ones((3, SIZE, SIZE), bool)
    valid[0, :3], valid[2, :, 5:] = False, False
    lat, lon = lat_lon(3.5, 3.5)
    expected = encoder.embed(images.transpose(0, 2, 3, 1), [lat] * 3, [lon] * 3, TIMES, valid=valid)
    mask = xr.DataArray(valid, dims=("time", "y", "x"), coords={name: array[name] for name in ("time", "y", "x")})
    for given in (valid, mask, mask.transpose("x", "time", "y")):
        np.testing.assert_allclose(encoder.embed(array, valid=given).values, expected, atol=1e-5)
    scene = encoder.embed_scene(array, valid=mask.transpose("x", "y", "time"), stride=8)
    np.testing.assert_allclose(scene.values[:, 0, 0], expected, atol=2e-5)
    first = encoder.embed(array.isel(time=[0]), valid=mask[0, ::-1].drop_vars("time"))  # of no time, from the south
    np.testing.assert_allclose(first.values, expected[:1], atol=1e-5)
    with pytest.raises(ValueError, match="valid lacks coordinates that the images have"):
        encoder.embed(array, valid=mask.assign_coords(x=mask.x + 15))
    for wrong in (valid[0], valid[:2]):
        with pytest.raises(ValueError, match=r"valid must be \(3, 8, 8\), one for each pixel, got"):
            encoder.embed(array, valid=wrong)
    with pytest.raises(ValueError, match=r"valid must be \(8, 8\), one for each pixel, got \(3, 8, 8\)"):
        encoder.embed_scene(images[0].transpose(1, 2, 0), valid=valid)


def test_a_dataset_has_a_variable_a_band_and_places_of_its_own(encoder):
    images = numbers(4, 7, SIZE, SIZE)
    names = ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")
    where = {"lat": ("patch", [1.0, 2.0, 3.0, 4.0]), "lon": ("patch", [5.0, 6.0, 7.0, 8.0]), "time": TIMES[0]}
    variables = {name: (("patch", "y", "x"), images[:, i]) for i, name in enumerate(names)}
    variables |= {"qa_pixel": (("patch", "y", "x"), images[:, 0]), "cloud_cover": (("patch",), np.zeros(4))}
    z = encoder.embed(xr.Dataset(dict(reversed(variables.items())), coords=where))
    expected = encoder.embed(images.transpose(0, 2, 3, 1), where["lat"][1], where["lon"][1], [TIMES[0]] * 4)
    assert z.dims == ("patch", "embedding")
    np.testing.assert_allclose(z.values, expected, atol=1e-5)
    np.testing.assert_array_equal(z.lat, where["lat"][1])


def test_degrees_are_places_and_no_place_is_none(encoder):
    images = numbers(1, 7, SIZE, SIZE)[0]
    plain = encoder.embed(images.transpose(1, 2, 0)[None])
    bare = xr.DataArray(images, dims=("band", "y", "x"), coords={"band": list(landsat.BANDS)})
    np.testing.assert_allclose(encoder.embed(bare).values, plain[0], atol=1e-5)
    steps = np.arange(SIZE) * 0.001
    degrees = bare.rename(y="latitude", x="longitude").assign_coords(latitude=48 - steps, longitude=11 + steps)
    expected = encoder.embed(images.transpose(1, 2, 0)[None], [48 - 0.0035], [11.0035])
    np.testing.assert_allclose(encoder.embed(degrees).values, expected[0], atol=1e-5)


def test_fill_values_scales_and_units_are_those_that_it_says(encoder, tmp_path):
    images = numbers(1, 7, SIZE, SIZE)[0]
    images[:, :3, :3] = 65535
    array = stack(images[None]).isel(time=0, drop=True)
    holes = np.where(images == 65535, 0, images)
    lat, lon = lat_lon(3.5, 3.5)
    expected = encoder.embed(holes.transpose(1, 2, 0)[None], [lat], [lon])[0]
    for key in ("_FillValue", "nodata"):
        np.testing.assert_allclose(encoder.embed(array.assign_attrs({key: 65535})).values, expected, atol=1e-5)
    scaled = array.assign_attrs(_FillValue=65535, scale_factor=0.0000275, add_offset=-0.2)
    assert read_xarray(scaled, InputSpec()).spec.unit == "collection2_dn"
    decoded = xr.decode_cf(scaled.to_dataset(name="sr"))["sr"]
    assert decoded.dtype.kind == "f" and read_xarray(decoded, InputSpec()).spec.unit == "reflectance"
    np.testing.assert_allclose(encoder.embed(decoded).values, expected, atol=1e-3)
    with pytest.raises(ValueError, match="scale and offset say unit collection2_dn, not 'hls'"):
        encoder.embed(scaled, unit="hls")
    path = tmp_path / "patch.tif"
    array.rio.write_nodata(65535).rio.to_raster(path)
    with rioxarray.open_rasterio(path) as opened:  # bands have numbers alone, and are in the model's order
        np.testing.assert_allclose(encoder.embed(opened).values, expected, atol=1e-5)
        opened.attrs["long_name"] = tuple(reversed(landsat.BANDS))
        flipped = encoder.embed(holes[::-1].transpose(1, 2, 0)[None], [lat], [lon])[0]
        np.testing.assert_allclose(encoder.embed(opened).values, flipped, atol=1e-5)


@pytest.mark.parametrize(
    "change, options, message",
    [
        (lambda a: a.rename(y="row"), {}, "have the dimensions time, band, row, x; needed: y and x"),
        (lambda a: a.rename(band="layer"), {}, "needed: one of bands, named band"),
        (lambda a: a.isel(band=[0, 1, 2]), {}, "the model needs SR_B4"),
        (lambda a: a, dict(bands=landsat.BANDS[::-1]), "the images say SR_B1, SR_B2"),
        (lambda a: a, dict(layout="NCHW"), "xarray names its dimensions"),
        (lambda a: a, dict(normalized=True), "pass images.values"),
        (lambda a: a.assign_coords(band=[*landsat.BANDS[:6], "B99"]), {}, "unknown band 'B99'"),
        (
            lambda a: a.assign_coords(band=range(2, 9)),
            {},
            r"the bands have the numbers 2, 3, .* and no names; name them: bands=",
        ),
        (
            lambda a: a.assign_attrs(scale_factor=1e-4, add_offset=-0.1),
            {},
            "scale_factor 0.0001 and add_offset -0.1, which no unit",
        ),
        (lambda a: xr.Dataset({"t": ("time", TIMES)}), {}, "have the dimensions time; needed: y and x"),
        (lambda a: a.isel(band=0).to_dataset(name="QA_PIXEL"), {}, "no band of the images is one"),
        (lambda a: a.isel(band=0, drop=True).to_dataset(name="red").assign(nir=a[0, 0]), {}, "band nir has the sizes"),
    ],
)
def test_what_cannot_be_read_is_named(encoder, change, options, message):
    with pytest.raises(ValueError, match=message):
        encoder.embed(change(stack(numbers(3, 7, SIZE, SIZE))), **options)


def test_bands_first_and_pandas_columns(encoder):
    images = numbers(3, 7, SIZE, SIZE)
    table = pd.DataFrame({"lat": [1.0, 2.0, None], "lon": [4.0, 5.0, None], "time": pd.to_datetime(TIMES).tz_localize("UTC")})
    expected = encoder.embed(images.transpose(0, 2, 3, 1), table["lat"].to_numpy(), table["lon"].to_numpy(), TIMES)
    assert not np.allclose(expected, encoder.embed(images.transpose(0, 2, 3, 1)), atol=1e-3)
    for given in (images, list(images), np.ma.MaskedArray(images, False)):
        z = encoder.embed(given, table["lat"], table["lon"], table["time"], layout="NCHW")
        np.testing.assert_allclose(z, expected, atol=1e-5)
    mask = np.zeros(images.shape, bool)
    mask[..., :4] = True
    masked = encoder.embed(images.transpose(0, 2, 3, 1), valid=~mask[:, 0])
    np.testing.assert_allclose(encoder.embed(np.ma.MaskedArray(images, mask), layout="NCHW"), masked, atol=1e-5)
    with pytest.raises(ValueError, match="layout = 'CHW'"):
        encoder.embed(images, layout="CHW")


class Tensor:
    """A tensor on another device, that needs gradients: only what was detached and brought here becomes an array."""

    def __init__(self, values, ready=()):
        self.values, self.ready, self.dtype = values, ready, "torch.int32"

    def detach(self):
        return Tensor(self.values, (*self.ready, "detached"))

    def cpu(self):
        return Tensor(self.values, (*self.ready, "here"))

    def numpy(self):
        assert set(self.ready) == {"detached", "here"}
        return self.values


def test_tensors_are_brought_here(encoder):
    images, lat = numbers(3, 7, SIZE, SIZE), np.array([1.0, 2.0, 3.0])
    valid = np.arange(SIZE) > 3 + np.zeros((3, SIZE, 1), int)
    expected = encoder.embed(images.transpose(0, 2, 3, 1), lat, lat, valid=valid)
    for given in (Tensor(images), [Tensor(image) for image in images]):
        z = encoder.embed(given, Tensor(lat), Tensor(lat), valid=Tensor(valid), layout="NCHW")
        np.testing.assert_allclose(z, expected, atol=1e-5)
    scene = encoder.embed_scene(Tensor(images), layout="NCHW", stride=4)
    np.testing.assert_allclose(scene, encoder.embed_scene(images.transpose(0, 2, 3, 1), stride=4), atol=1e-5)


def test_torch_tensors_are_taken(encoder):
    torch = pytest.importorskip("torch", reason="needs torch")
    images = numbers(3, 7, SIZE, SIZE)
    last = images.transpose(0, 2, 3, 1)
    tensor = torch.tensor(images.astype(np.int32))
    where = torch.tensor([1.0, 2.0, float("nan")], dtype=torch.float64).requires_grad_()
    expected = encoder.embed(last, *[where.detach().numpy()] * 2, TIMES)
    np.testing.assert_allclose(encoder.embed(tensor, where, where, TIMES, layout="NCHW"), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.embed(tensor.permute(0, 2, 3, 1), where, where, TIMES), expected, atol=1e-5)
    z = torch.tensor(RNG.standard_normal((2, 7, SIZE, SIZE)), dtype=torch.bfloat16)
    half = encoder.embed(z.float().numpy().transpose(0, 2, 3, 1), normalized=True)
    np.testing.assert_allclose(encoder.embed(z, normalized=True, layout="NCHW"), half, atol=1e-5)


def test_a_scene_of_several_dates_is_embedded_on_one_grid(encoder):
    images = numbers(3, 7, 18, 20)
    images[1, :, :9] = 0  # the upper half is missing on one date
    z = encoder.embed_scene(stack(images), stride=4)
    assert z.dims == ("time", "y", "x", "embedding") and z.shape == (3, 4, 4, 16)
    assert z.rio.crs.to_epsg() == 32632
    np.testing.assert_allclose(z.y.values, 5_400_000 - 30 * (4 * np.arange(4) + 3.5))
    np.testing.assert_allclose(z.x.values, 600_000 + 30 * (4 * np.arange(4) + 3.5))
    padded = np.pad(images, ((0, 0), (0, 0), (0, 2), (0, 0)))
    for date, row, column in ((0, 0, 0), (2, 3, 3), (1, 2, 1), (0, 3, 1)):
        window = padded[date, :, 4 * row : 4 * row + 8, 4 * column : 4 * column + 8].transpose(1, 2, 0)[None]
        lat, lon = lat_lon(4 * row + 3.5, 4 * column + 3.5)
        expected = encoder.embed(window, [lat], [lon], TIMES[date : date + 1])[0]
        np.testing.assert_allclose(z.values[date, row, column], expected, atol=2e-5)
    lacking = np.isnan(z.values).all(axis=-1)
    assert lacking[1, 0].all() and lacking[1, 1].all() and not lacking[1, 2:].any() and not lacking[[0, 2]].any()
    mean = z.mean("time")
    np.testing.assert_allclose(mean.values[0], z.values[[0, 2], 0].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(mean.values[3], z.values[:, 3].mean(axis=0), atol=1e-6)
    assert json.loads(z.attrs["input"])["stride"] == 4


def test_a_scene_of_plain_numbers(encoder):
    image = numbers(7, 16, 16)
    z, record = encoder.embed_scene(image.transpose(1, 2, 0), 48.0, 11.0, "2020-05-01T10:00:00", stride=8, return_record=True)
    assert z.shape == (2, 2, 16) and record["window"] == 8
    expected = encoder.embed(image[:, 8:, :8].transpose(1, 2, 0)[None], [48.0], [11.0], ["2020-05-01T10:00:00"])
    np.testing.assert_allclose(z[1, 0], expected[0], atol=2e-5)
    several = encoder.embed_scene(np.stack([image, image]), layout="NCHW", stride=8)
    assert several.shape == (2, 2, 2, 16)
    valid = np.ones((16, 16), bool)
    valid[:8, :8] = False
    valid[8:, :3] = False
    found = encoder.embed_scene(image.transpose(1, 2, 0), valid=valid, stride=8)
    assert np.isnan(found[0, 0]).all() and np.isfinite(found[[0, 1, 1], [1, 0, 1]]).all()
    masked = encoder.embed(image[:, 8:, :8].transpose(1, 2, 0)[None], valid=valid[None, 8:, :8])
    np.testing.assert_allclose(found[1, 0], masked[0], atol=2e-5)
    scene = image.transpose(1, 2, 0)
    # With nodata="published" what lies beyond the edge is dark, whatever the unit.
    reflectance = (scene * 0.0000275 - 0.2).astype(np.float32)
    dark = encoder.embed_scene(scene[:14], stride=8, nodata="published")
    np.testing.assert_allclose(
        encoder.embed_scene(reflectance[:14], stride=8, nodata="published", unit="reflectance"), dark, atol=1e-3
    )
    for options, message in (
        (dict(stride=9), "stride = 9"),
        (dict(min_valid=2), "min_valid = 2"),
        (dict(pool="tokens"), "no vector a window"),
        (dict(resize_mode="resize"), "resize_mode = 'resize'"),
        (dict(nodata="published", valid=valid), "valid would be ignored"),
        (dict(unit="level1_dn", sun_elevation=np.ones(1)), "sun_elevation must be one number"),
        (dict(time=["2020-01-01", "2020-01-02"]), "one for each of the 1 dates, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.embed_scene(scene, **options)
    with pytest.raises(ValueError, match=r"must be \(H, W, C\) or \(T, H, W, C\)"):
        encoder.embed_scene(scene[0])


def test_bands_go_by_their_numbers_where_they_have_no_names(encoder):
    array = stack(numbers(1, 7, SIZE, SIZE)).assign_coords(band=range(1, 8))
    expected = encoder.embed(array).values
    np.testing.assert_allclose(encoder.embed(array.sel(band=[4, 3, 2, 1, 5, 6, 7])).values, expected, atol=1e-5)
    shuffled = array.isel(band=[4, 3, 2, 1, 0, 5, 6])
    names = tuple(landsat.BANDS[i] for i in (4, 3, 2, 1, 0, 5, 6))
    np.testing.assert_allclose(encoder.embed(shuffled, bands=names).values, expected, atol=1e-5)  # names go before numbers


def test_variables_beside_the_bands_are_left_out(encoder):
    array = stack(numbers(1, 7, SIZE, SIZE))
    bands = array.to_dataset(dim="band")
    more = bands.assign(ndvi=(bands.SR_B5 - bands.SR_B4) * 1.0)
    np.testing.assert_allclose(encoder.embed(more).values, encoder.embed(array).values, atol=1e-5)


def test_variables_of_sentinel_2_and_misspelt_ones_are_refused(encoder):
    array = stack(numbers(1, 7, SIZE, SIZE))
    names = [f"B0{i}" for i in range(1, 8)]
    bands = array.assign_coords(band=names).to_dataset(dim="band")
    with pytest.raises(ValueError, match="B8A is Sentinel-2's"):
        encoder.embed(bands.assign(B8A=bands.B07, B12=bands.B06))
    colours = ["coastal", "blue", "green", "red", "nir", "swir1", "swri2"]
    with pytest.raises(ValueError, match="unknown band 'swri2'"):
        encoder.embed(array.assign_coords(band=colours).to_dataset(dim="band"), fill_missing=True)


def test_scales_of_each_band_and_the_numbers_of_a_sensor(encoder):
    array = stack((numbers(1, 8, SIZE, SIZE) // 4), band=[*landsat.BANDS, "ST_B10"])
    mixed = array.assign_attrs(scales=(1e-4,) * 7 + (0.01,), offsets=(0.0,) * 7 + (149.0,))
    assert read_xarray(mixed, InputSpec()).spec.unit == "hls"
    six = stack(numbers(1, 6, SIZE, SIZE), band=[1, 2, 3, 4, 5, 7])
    expected = encoder.embed(six.values.transpose(0, 2, 3, 1), sensor="landsat7")
    z = encoder.embed(six.drop_vars(["spatial_ref", "time", "x", "y"]), sensor="landsat7")
    np.testing.assert_allclose(z.values, expected, atol=1e-5)


def test_masks_in_every_form(encoder):
    images = numbers(2, SIZE, SIZE, 7)
    holds = np.ones(images.shape[:3], bool)
    holds[:, :4] = False
    z = encoder.embed(images, valid=holds)
    array = stack(images.transpose(0, 3, 1, 2)).drop_vars(["spatial_ref", "time", "x", "y"])
    masked = np.ma.array(np.ones(holds.shape, bool), mask=~holds)
    for valid in (masked, list(masked), np.where(holds, 1.0, np.nan)):
        np.testing.assert_allclose(encoder.embed(images, valid=valid), z, atol=1e-6)
        np.testing.assert_allclose(encoder.embed(array, valid=valid).values, z, atol=1e-5)
        windows = encoder.embed_scene(images, valid=valid, min_valid=0.1)
        np.testing.assert_allclose(windows, encoder.embed_scene(images, valid=holds, min_valid=0.1), atol=1e-6)
    hidden = np.ma.array(images, mask=np.broadcast_to(~holds[..., None], images.shape))
    expected = encoder.embed_scene(hidden, min_valid=0.1)
    np.testing.assert_allclose(encoder.embed_scene(list(hidden), min_valid=0.1), expected, atol=1e-6)


def test_where_else_an_object_holds_its_place_and_time(encoder):
    """As netCDF and Zarr are read, openEO, stackstac after arithmetic, xee, and CF without well-known text have them."""
    import pyproj

    images = numbers(2, 7, SIZE, SIZE)
    lat, lon = lat_lon(3.5, 3.5)
    expected = encoder.embed(images.transpose(0, 2, 3, 1), [lat] * 2, [lon] * 2, TIMES[:2])
    plain = stack(images)
    cf = {key: value for key, value in pyproj.CRS(32632).to_cf().items() if key != "crs_wkt"}
    bare = plain.drop_vars("spatial_ref").drop_attrs()
    dataset = bare.to_dataset("band")
    for name in dataset.data_vars:
        dataset[name].attrs["grid_mapping"] = "crs"
    wkt = dataset.assign(crs=((), 0, {"crs_wkt": pyproj.CRS(32632).to_wkt()}))
    for objects in (
        wkt,
        wkt.rename(time="t"),
        dataset.assign(crs=((), 0, cf)),
        bare.assign_coords(spatial_ref=((), 0, cf)),
        bare.assign_coords(epsg=32632),
        bare.rename(x="X", y="Y").assign_attrs(crs="EPSG:32632"),
    ):
        np.testing.assert_allclose(encoder.embed(objects).values, expected, atol=1e-5)
    assert np.abs(encoder.embed(bare).values - expected).max() > 1e-3


def test_several_poolings_may_be_a_list(encoder):
    images = numbers(2, SIZE, SIZE, 7)
    np.testing.assert_array_equal(encoder.embed(images, pool=["mean", "cls"]), encoder.embed(images, pool=("mean", "cls")))


def test_coordinates_that_pass_180_degrees(encoder):
    """The middle of the image lies at 180 degrees, not at 0, where the mean of its first and last longitude is."""
    image = numbers(7, SIZE, 24)
    lon = (180 - 0.001 * 11.5 + 0.001 * np.arange(24) + 180) % 360 - 180
    lat = -16 - 0.001 * np.arange(SIZE)
    coords = {"band": list(landsat.BANDS), "latitude": lat, "longitude": lon}
    array = xr.DataArray(image, dims=("band", "latitude", "longitude"), coords=coords)
    assert lon[0] > 179 and lon[-1] < -179
    columns = array.isel(longitude=slice(8, 16))
    np.testing.assert_allclose(
        encoder.embed(columns).values,
        encoder.embed(image[None, :, :, 8:16].transpose(0, 2, 3, 1), lat=[lat[3:5].mean()], lon=[180.0])[0],
        atol=1e-5,
    )
    found = encoder.embed_scene(array, stride=8).longitude.values
    np.testing.assert_allclose(found % 360, [179.992, 180.0, 180.008], atol=1e-9)
    assert found[0] > 0 > found[2]
    with pytest.raises(ValueError, match="coordinates of longitude are not evenly spaced; fill the gap"):
        encoder.embed_scene(array.isel(longitude=[*range(8), *range(12, 24)]))


@pytest.mark.parametrize("form", ["each pixel's", "stackstac's code"])
def test_other_ways_to_say_a_place(encoder, form):
    images = numbers(1, 7, SIZE, SIZE)
    array = stack(images).drop_vars("spatial_ref")
    lat, lon = lat_lon(3.5, 3.5)
    if form == "each pixel's":
        degrees = [np.array([[lat_lon(row, column)[i] for column in range(SIZE)] for row in range(SIZE)]) for i in (0, 1)]
        array = array.drop_vars(["y", "x"]).assign_coords(
            latitude=(("y", "x"), degrees[0]), longitude=(("x", "y"), degrees[1].T)
        )
    else:
        array = array.assign_coords({"proj:code": "EPSG:32632"})
    expected = encoder.embed(images.transpose(0, 2, 3, 1), [lat], [lon], TIMES[:1])
    np.testing.assert_allclose(encoder.embed(array).values, expected, atol=1e-4)


def test_attributes_as_files_keep_them(encoder):
    """netCDF gives arrays where rioxarray had tuples, and of one number an array too; old rioxarray has `nodatavals`."""
    images = numbers(1, 7, SIZE, SIZE)
    order = [6, 5, 4, 3, 2, 1, 0]
    array = stack(images).isel(band=order).drop_vars("band")
    names = np.array([landsat.BANDS[i] for i in order])
    expected = encoder.embed(stack(images)).values
    np.testing.assert_allclose(encoder.embed(array.assign_attrs(long_name=names)).values, expected, atol=1e-5)
    for attrs in (dict(scales=np.full(7, 0.0001)), dict(scale_factor=np.array([0.0001]), add_offset=np.array([0.0]))):
        found = read_xarray((stack(images) // 4).assign_attrs(attrs), InputSpec())
        assert found.spec.unit == "hls"
    edge = images.copy()
    edge[:, :, :4] = 65535
    for bands in ((65535,) * 7, np.full(7, 65535)):
        assert read_xarray(stack(edge).assign_attrs(nodatavals=bands), InputSpec()).images.mask[:, :4].all()
    mixed = read_xarray(stack(edge).assign_attrs(nodatavals=(65535, 0, 0, 0, 0, 0, None)), InputSpec()).images.mask
    assert mixed[..., 0].any() and not mixed[..., 1:].any()
    encoded = stack(edge)
    encoded.encoding["_FillValue"] = 65535
    assert read_xarray(encoded, InputSpec()).images.mask[:, :4].all()


def test_what_is_no_scene_is_named_before_it_is_cut(encoder):
    scene = numbers(7, 30, 20)
    for wrong in (scene, np.stack([scene, scene])):
        with pytest.raises(ValueError, match=r"layout='NCHW' says that the bands come first"):
            encoder.embed_scene(wrong)
    with pytest.raises(ValueError, match=r"the model takes SR_B1, .*; bands=\(...\) says"):
        encoder.embed_scene(scene.transpose(1, 2, 0)[:2, :2, :3])
    for empty in (np.zeros((0, 30, 20, 7), np.uint16), np.zeros((30, 0, 7), np.uint16)):
        with pytest.raises(ValueError, match="has no pixel"):
            encoder.embed_scene(empty)
    with pytest.raises(ValueError, match="lat must be one number, of the whole scene"):
        encoder.embed_scene(scene.transpose(1, 2, 0), lat=[48.0, 48.0], lon=11.0)


def test_options_may_be_numpys_numbers(encoder):
    array = stack(numbers(1, 7, 24, 24))
    found = encoder.embed_scene(array, stride=np.int64(4), min_valid=np.float32(0.5))
    xr.testing.assert_identical(found, encoder.embed_scene(array, stride=4, min_valid=0.5))
    with pytest.raises(ValueError, match="stride = 2.5 must be a whole number"):
        encoder.embed_scene(array, stride=2.5)


def as_of_file(images, names, **attrs):
    """A DataArray (C, H, W) as rioxarray opens a file: bands have numbers, attributes of all of the file's are tuples."""
    array = stack(images[None], band=range(1, len(images) + 1)).isel(time=0, drop=True)
    return array.assign_attrs(long_name=tuple(names), **attrs)


def test_bands_chosen_of_a_file_keep_their_names_and_scales(encoder):
    image = numbers(8, SIZE, SIZE)  # the file's bands are QA_PIXEL and SR_B7 to SR_B1
    names = ("QA_PIXEL", *landsat.BANDS[::-1])
    lat, lon = lat_lon(3.5, 3.5)
    expected = encoder.embed(image[:0:-1].transpose(1, 2, 0)[None], [lat], [lon])[0]
    array = as_of_file(image, names)
    without = array.sel(band=slice(2, 8))
    for chosen in (array, without, without.isel(band=[3, 1, 0, 6, 5, 4, 2]), array.sortby("band", ascending=False)):
        np.testing.assert_allclose(encoder.embed(chosen).values, expected, atol=1e-5)
    for given in (landsat.BANDS, ("coastal", "B2", "green", "red", "nir", "swir1", "SR_B7")):
        np.testing.assert_allclose(encoder.embed(array.sel(band=range(8, 1, -1)), bands=given).values, expected, atol=1e-5)
    with pytest.raises(ValueError, match="bands = SR_B1, .* and the images say SR_B7"):
        encoder.embed(without, bands=landsat.BANDS)
    nameless = as_of_file(image, ("QA_PIXEL", None, *names[2:])).sel(band=range(8, 1, -1))
    np.testing.assert_allclose(encoder.embed(nameless, bands=landsat.BANDS).values, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"unknown band '\(no name\)'"):
        encoder.embed(nameless)
    twice = as_of_file(np.concatenate([image[:0:-1], image[1:]]), landsat.BANDS * 2)  # two dates in one file
    np.testing.assert_allclose(encoder.embed(twice.sel(band=slice(1, 7))).values, expected, atol=1e-5)
    numbered = as_of_file(image[:0:-1], [f"Band {i}" for i in range(1, 8)])
    np.testing.assert_allclose(encoder.embed(numbered.sortby("band", ascending=False)).values, expected, atol=1e-5)
    with pytest.raises(ValueError, match="B8A is Sentinel-2's"):
        encoder.embed(as_of_file(image, ("B8A", *(f"B0{i}" for i in range(1, 8)))).sel(band=slice(2, 8)))

    scaled = as_of_file(image // 4, names, scales=(1.0,) + (1e-4,) * 7, offsets=(0.0,) * 8, nodatavals=(1,) + (0,) * 6 + (7,))
    scaled[:, 0, 0], scaled[:, 0, 1], scaled[:, 0, 2] = 1, 0, 7
    found = read_xarray(scaled.sel(band=[8, 3]), InputSpec())  # SR_B1 and SR_B6
    assert found.spec.unit == "hls" and found.spec.bands == ("SR_B1", "SR_B6")
    np.testing.assert_array_equal(found.images.mask[0, 0, :3], [[False, False], [False, True], [True, False]])


def rotated(image, height, width):
    """A DataArray as rioxarray opens a rotated file: x and y of each pixel's middle, which stands at half its numbers."""
    row, column = np.mgrid[:height, :width] + 0.5
    array = stack(image[None]).isel(time=0, drop=True).drop_vars(["x", "y"])
    array = array.assign_coords(
        xc=(("y", "x"), 500_000.0 + 24 * column + 18 * row), yc=(("y", "x"), 5_300_000.0 + 18 * column - 24 * row)
    )
    array.spatial_ref.attrs["GeoTransform"] = "500000.0 24.0 18.0 5300000.0 18.0 -24.0"
    return array


def degrees(x, y):
    from rasterio.warp import transform

    lon, lat = transform("EPSG:32632", "EPSG:4326", [x], [y])
    return lat, lon


@pytest.mark.filterwarnings("ignore:.*read from GeoTransform")
@pytest.mark.parametrize("form", ["xc and yc", "GeoTransform", "variables"])
def test_the_place_of_pixels_that_have_no_axes(encoder, form):
    image = numbers(7, 12, 16)
    array = rotated(image, 12, 16)
    if form != "xc and yc":
        array = array.drop_vars(["xc", "yc"])
    scene = array.to_dataset("band") if form == "variables" else array
    # The window at row 4 and column 8 has its middle at the corner of pixels 8 rows and 12 columns from the upper left.
    where = degrees(500_000 + 24 * 12 + 18 * 8, 5_300_000 + 18 * 12 - 24 * 8)
    window = image[:, 4:12, 8:16].transpose(1, 2, 0)[None]
    expected = encoder.embed(window, *where)[0]
    assert np.abs(expected - encoder.embed(window)[0]).max() > 1e-3
    found = encoder.embed_scene(scene, stride=4)
    np.testing.assert_allclose(found.values[1, 2], expected, atol=2e-5)
    assert "GeoTransform" not in found.spatial_ref.attrs
    first = image[:, :8, :8].transpose(1, 2, 0)[None]
    where = degrees(500_000 + 24 * 4 + 18 * 4, 5_300_000 + 18 * 4 - 24 * 4)
    alone = encoder.embed(scene.isel(x=slice(0, 8), y=slice(0, 8))).values
    np.testing.assert_allclose(alone, encoder.embed(first, *where)[0], atol=1e-5)
    if form == "xc and yc":  # these move with the pixels, as GeoTransform does not
        cut = encoder.embed(scene.isel(x=slice(8, 16), y=slice(11, 3, -1))).values
        where = degrees(500_000 + 24 * 12 + 18 * 8, 5_300_000 + 18 * 12 - 24 * 8)
        np.testing.assert_allclose(cut, encoder.embed(window[:, ::-1], *where)[0], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*read from GeoTransform")
@pytest.mark.parametrize("form", ["xc and yc", "GeoTransform"])
def test_the_middle_of_a_pixel_is_half_a_pixel_from_the_corner_of_the_file(form):
    array = rotated(numbers(7, 12, 16), 12, 16)
    if form == "GeoTransform":
        array = array.drop_vars(["xc", "yc"])
    for row, column in ((0, 0), (2, 5), (3.5, 0.5)):
        place = read_xarray(array, InputSpec()).place(row, column)
        x, y = (500_000 + 24 * (column + 0.5) + 18 * (row + 0.5), 5_300_000 + 18 * (column + 0.5) - 24 * (row + 0.5))
        np.testing.assert_allclose(place, degrees(x, y), rtol=0, atol=1e-8)


def test_a_transform_that_may_be_of_more_pixels_is_warned_of(encoder):
    """And degrees of pixels beside a projected CRS are no x and y of it; an empty transform is none."""
    array = rotated(numbers(7, 12, 16), 12, 16).drop_vars(["xc", "yc"])
    with pytest.warns(UserWarning, match="that of the whole file where pixels were cut off"):
        encoder.embed(array.isel(x=slice(0, 8), y=slice(0, 8)))
    array.spatial_ref.attrs["GeoTransform"] = ""
    bare = array.isel(x=slice(0, 8), y=slice(0, 8))
    expected = encoder.embed(bare.values.transpose(1, 2, 0)[None])[0]
    np.testing.assert_allclose(encoder.embed(bare).values, expected, atol=1e-5)
    of_pixels = {
        name: (("y", "x"), np.full((8, 8), value), {"units": "degrees"}) for name, value in (("xc", 9.0), ("yc", 45.0))
    }
    np.testing.assert_allclose(encoder.embed(bare.assign_coords(of_pixels)).values, expected, atol=1e-5)


def test_statistics_of_a_band_beside_it_are_left_out(encoder):
    array = stack(numbers(1, 7, SIZE, SIZE)).isel(time=0, drop=True)
    bands = array.assign_coords(band=list(landsat.BANDS)).to_dataset("band")
    expected = encoder.embed(bands).values
    np.testing.assert_array_equal(encoder.embed(bands.assign(SR_B4_p90=bands.SR_B4 * 0 + 1)).values, expected)


def test_a_transform_goes_behind_coordinates_and_says_what_is_wrong(encoder):
    image = numbers(7, SIZE, SIZE)
    array = stack(image[None]).isel(time=0, drop=True)
    expected = encoder.embed(array).values
    array.spatial_ref.attrs["GeoTransform"] = "300000.0 30.0 0.0 4000000.0 0.0 -30.0"  # of the whole, of which this is a part
    np.testing.assert_array_equal(encoder.embed(array).values, expected)
    z = encoder.embed_scene(stack(numbers(1, 7, 16, 16)).rio.write_transform(), stride=4)
    assert z.rio.resolution() == (120, -120)  # windows', which the images' transform does not say
    bare = array.drop_vars(["x", "y"])
    without = encoder.embed(image.transpose(1, 2, 0)[None])[0]
    bare.spatial_ref.attrs["GeoTransform"] = "0.0 1.0 0.0 0.0 0.0 1.0"
    np.testing.assert_allclose(encoder.embed(bare).values, without, atol=1e-5)
    bare.spatial_ref.attrs["GeoTransform"] = "300000 30 0"
    with pytest.raises(ValueError, match="GeoTransform = '300000 30 0' is not six numbers"):
        encoder.embed(bare)


def test_reflectance_by_arithmetic_is_believed(encoder):
    """xarray keeps attributes through arithmetic, also scale and offset, which say nothing of the result."""
    image = stack(numbers(1, 7, SIZE, SIZE)).assign_attrs(scale_factor=0.0000275, add_offset=-0.2, _FillValue=0)
    reflectance = (image * 0.0000275 - 0.2).assign_attrs(image.attrs)
    lat, lon = lat_lon(3.5, 3.5)
    values = image.values.transpose(0, 2, 3, 1) * 0.0000275 - 0.2
    expected = encoder.embed(values, [lat], [lon], TIMES[:1], unit="reflectance")
    np.testing.assert_allclose(encoder.embed(reflectance, unit="reflectance").values, expected, atol=1e-5)
    for given, unit in ((image, "reflectance"), (reflectance, "hls")):
        with pytest.raises(ValueError, match=f"scale and offset say unit collection2_dn, not '{unit}'"):
            encoder.embed(given, unit=unit)


def test_variables_that_rioxarray_numbers(encoder):
    """`open_rasterio(path, band_as_variable=True)` has band_1 and so on, whose long_name is the file's description."""
    image = numbers(8, SIZE, SIZE)
    lat, lon = lat_lon(3.5, 3.5)
    expected = encoder.embed(image[:7].transpose(1, 2, 0)[None], [lat], [lon])[0]
    array = stack(image[None], band=[f"band_{i}" for i in range(1, 9)]).isel(time=0, drop=True)
    bare = array.to_dataset("band")

    def named(images, names):
        variables = {f"band_{i}": band.assign_attrs(long_name=name) for i, (band, name) in enumerate(zip(images, names), 1)}
        return xr.Dataset(variables)

    names = (*landsat.BANDS, "QA_PIXEL")
    described = named(array.drop_vars("band")[::-1], names[::-1])
    more = described.assign(ndvi=(described.band_4 - described.band_5).assign_attrs(long_name="SR_B5"))  # kept by arithmetic
    seven = bare.drop_vars("band_8")
    positions = named(array.drop_vars("band")[:7], [f"Band {i}" for i in range(1, 8)])
    with_quality = bare.rename(band_8="QA_PIXEL")
    for dataset in (described, described.drop_vars("band_1"), more, seven, seven[list(seven)[::-1]], positions, with_quality):
        np.testing.assert_allclose(encoder.embed(dataset).values, expected, atol=1e-5)
    swapped = seven[[f"band_{i}" for i in range(7, 0, -1)]]
    np.testing.assert_allclose(encoder.embed(swapped, bands=landsat.BANDS[::-1]).values, expected, atol=1e-5)
    with pytest.raises(ValueError, match="the bands have the numbers 2, 3, .* and no names; name them: bands="):
        encoder.embed(seven.drop_vars("band_1"))
    with pytest.raises(ValueError, match="B8A is Sentinel-2's"):
        encoder.embed(named(array.drop_vars("band"), (*(f"B0{i}" for i in range(1, 8)), "B8A")))
    with pytest.raises(ValueError, match="band SR_B1 is named twice"):
        encoder.embed(named(array.drop_vars("band"), (*landsat.BANDS, "SR_B1")))
    six = bare[[f"band_{i}" for i in range(1, 7)]].drop_vars(["spatial_ref", "x", "y"])
    expected = encoder.embed(image[:6].transpose(1, 2, 0)[None], sensor="landsat7")[0]
    np.testing.assert_allclose(encoder.embed(six, sensor="landsat7").values, expected, atol=1e-5)


DEGREES = {
    "latitude": {"units": "degrees_north", "standard_name": "latitude"},
    "longitude": {"units": "degrees_east", "standard_name": "longitude"},
}


def bare(count=None):
    """A DataArray (C, H, W), or (date, C, H, W), that says its bands alone."""
    images = numbers(*(() if count is None else (count,)), 7, SIZE, SIZE)
    dims = ("band", "y", "x") if count is None else ("date", "band", "y", "x")
    return xr.DataArray(images, dims=dims, coords={"band": list(landsat.BANDS)})


@pytest.mark.parametrize("attrs", [("units",), ("standard_name",), ("units", "standard_name")])
def test_degrees_may_lie_along_y_and_x(encoder, attrs):
    lat, lon = 48 - 0.001 * np.arange(SIZE), 11 + 0.001 * np.arange(SIZE)
    said = {name: {key: DEGREES[name][key] for key in attrs} for name in DEGREES}
    array = bare()
    images = array.values.transpose(1, 2, 0)[None]
    expected = encoder.embed(images, [lat.mean()], [lon.mean()])[0]
    by_attributes = array.assign_coords(y=("y", lat, said["latitude"]), x=("x", lon, said["longitude"]))
    of_other_names = array.assign_coords(north=("y", lat, said["latitude"]), east=("x", lon, said["longitude"]))
    by_name = [array.assign_coords({a: ("y", lat), b: ("x", lon)}) for a, b in (("lat", "lon"), ("latitude", "longitude"))]
    for each in (by_attributes, of_other_names, *by_name):
        np.testing.assert_allclose(encoder.embed(each).values, expected, atol=1e-4)
        np.testing.assert_allclose(encoder.embed_scene(each).values[0, 0], expected, atol=1e-4)
    assert not np.allclose(encoder.embed(array).values, expected, atol=1e-3)


def test_a_crs_may_stand_in_attributes_and_in_coordinates(encoder):
    array = stack(numbers(1, 7, SIZE, SIZE))
    expected = encoder.embed(array).values
    plain = array.drop_vars("spatial_ref")
    attributes = dict(array.spatial_ref.attrs)
    said = [plain.assign_attrs(attributes)]
    for name in ("crs", "epsg", "proj:epsg", "proj:code", "spatial_ref"):
        for value in (32632, np.int64(32632), "EPSG:32632", attributes["crs_wkt"]):
            said += [plain.assign_attrs({name: value}), plain.assign_coords({name: value})]
    said.append(plain.assign_coords(crs=((), 0, attributes)))
    for each in said:
        np.testing.assert_allclose(encoder.embed(each).values, expected, atol=1e-5)
    nothing = [plain.assign_coords(crs=0), plain.assign_attrs({"proj:epsg": None}), plain.assign_attrs(crs="")]
    for each in nothing:
        assert read_xarray(each, InputSpec()).crs is None


@pytest.mark.parametrize("name", ["date", "datetime", "timestamps"])
def test_the_only_time_is_the_time(encoder, name):
    array = bare(2).rename(date=name)
    images = array.values.transpose(0, 2, 3, 1)
    expected, none = encoder.embed(images, time=TIMES[:2]), encoder.embed(images)
    assert not np.allclose(expected, none, atol=1e-3)
    of_dimension = array.assign_coords({name: TIMES[:2]})
    beside = array.rename({name: "patch"}).assign_coords({name: ("patch", TIMES[:2])})
    for each in (of_dimension, beside, of_dimension.assign_coords(processed=(name, TIMES[1:]), updated=TIMES[2])):
        np.testing.assert_allclose(encoder.embed(each).values, expected, atol=1e-5)
    np.testing.assert_allclose(encoder.embed(of_dimension[1]).values, expected[1], atol=1e-5)
    np.testing.assert_allclose(encoder.embed(array.assign_coords(updated=TIMES[2])).values, none, atol=1e-5)
    with pytest.warns(UserWarning, match=f"the images have the times {name}, processed, of which none is taken"):
        encoder.embed(beside.assign_coords(processed=("patch", TIMES[1:])))


def test_values_beyond_the_valid_ones_are_missing(encoder):
    array = bare()
    array.values[:, :3], array.values[:, 7] = 65000, 100
    holds = np.ones((SIZE, SIZE), bool)
    holds[:3], holds[7] = False, False
    expected = encoder.embed(array, valid=holds).values
    scaled = {"scale_factor": 0.0000275, "add_offset": -0.2}
    packed, limits = {"valid_range": [7273, 43636]}, {"valid_min": 7273, "valid_max": np.array([43636])}
    for attrs in (packed, limits, packed | scaled, {"valid_range": (0.0, 1.0)} | scaled):
        np.testing.assert_allclose(encoder.embed(array.assign_attrs(attrs)).values, expected, atol=1e-5)
    decoded = xr.decode_cf(array.assign_attrs(packed | scaled).to_dataset(name="sr"))["sr"]
    assert decoded.dtype.kind == "f" and "valid_range" in decoded.attrs
    np.testing.assert_allclose(encoder.embed(decoded).values, expected, atol=1e-3)
    in_float32 = {key: np.float32(value) for key, value in scaled.items()}
    for value, attrs in itertools.product((7273, 43636), (packed | scaled, packed | in_float32)):
        edge = array.copy(data=np.full_like(array.values, value)).assign_attrs(attrs)
        assert not read_xarray(xr.decode_cf(edge.to_dataset(name="sr"))["sr"], InputSpec()).images.mask.any()
    computed = (bare() * 0.0000275 - 0.2).assign_attrs(packed)  # whose attributes arithmetic left there
    assert not read_xarray(computed, InputSpec("reflectance")).images.mask.any()


def test_a_mask_of_each_band_holds_where_all_do(encoder):
    array, other = bare(), bare()  # the images themselves hold data everywhere
    other.values[3, :2] = 0
    valid = np.ones((SIZE, SIZE), bool)
    valid[:2] = False
    expected = encoder.embed(array, valid=valid).values
    assert np.abs(encoder.embed(array).values - expected).max() > 1e-4
    named = other.to_dataset("band")
    for mask in (other > 0, other.where(other > 0).notnull(), named > 0, (other > 0).astype(float)):
        np.testing.assert_array_equal(encoder.embed(array, valid=mask).values, expected)
    with pytest.raises(ValueError, match="valid has the dimensions year, which the images lack"):
        encoder.embed(array, valid=(array > 0).expand_dims(year=2))


def test_a_selection_without_pixels_is_an_error(encoder):
    for empty in (bare()[:, :0], bare().isel(x=slice(0)).to_dataset("band")):
        for embed in (encoder.embed, encoder.embed_scene):
            with pytest.raises(ValueError, match="have no pixel"):
                embed(empty)


def test_a_dataset_with_numbers_of_landsat_5_needs_the_sensor(encoder):
    array = bare().isel(band=[0, 1, 2, 3, 4, 6])
    for images in (array, array.to_dataset("band")):
        for embed in (encoder.embed, encoder.embed_scene):
            for fill_missing in (False, True):
                with pytest.raises(ValueError, match="numbered as those of Landsat 4, 5 and 7; name the sensor"):
                    embed(images, fill_missing=fill_missing)
        assert encoder.embed(images, sensor="landsat7").shape == (16,)


def test_a_column_of_images(encoder):
    images = numbers(3, SIZE, SIZE, 7)
    valid = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) > np.array([0, 9, 20])[:, None, None]
    z = encoder.embed(pd.Series(list(images)), valid=pd.Series(list(valid)))
    np.testing.assert_array_equal(z, encoder.embed(images, valid=valid))

"""One patch from a GeoTIFF: every form that files have, every flaw by name."""

import pickle
import re

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from geotiffs import pixels, write_tif

from geomoe import landsat
from geomoe.data import geotiff
from geomoe.data.geotiff import PatchError, read_patch
from geomoe.data.preprocess import InputSpec
from geomoe.data.scene import SceneReader, open_scene

FORMS = [
    {},
    {"compress": "lzw"},
    {"interleave": "band"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16},
    {"tags": {"AREA_OR_POINT": "Point"}},
]


@pytest.mark.parametrize("options", FORMS)
def test_a_patch_is_read_whole_and_located_by_its_crs(tmp_path, options):
    image = pixels()
    path = write_tif(tmp_path / "a.tif", image, **options)
    patch = read_patch(path)
    np.testing.assert_array_equal(patch.image, image)
    # The central meridian of zone 33 is 15 E; the middle lies 645 m east and 615 m south of the corner.
    assert patch.longitude == pytest.approx(15 + 645 / (111_320 * np.cos(np.radians(47.85))), abs=3e-5)
    assert patch.latitude == pytest.approx(47.85, abs=0.02)
    by_gdal = geotiff._read_any(str(path), "collection2_dn", 100)
    assert by_gdal.centre == pytest.approx((500645, 5299385))
    if "compress" not in options:  # tifffile leaves LZW to GDAL
        by_tifffile = geotiff._read_plain(str(path), "collection2_dn", 100)
        assert by_tifffile.centre == pytest.approx(by_gdal.centre, abs=1e-6)


def test_pixels_that_are_points_have_their_coordinates_in_the_middle(tmp_path):
    """GDAL writes the tie point of such files half a pixel inwards; read as a corner it would move the patch by 15 m."""
    import tifffile

    path = write_tif(tmp_path / "point.tif", pixels(), tags={"AREA_OR_POINT": "Point"})
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.tags[33922].value[3:5] == (500015.0, 5299985.0)
    area = read_patch(write_tif(tmp_path / "area.tif", pixels()))
    point = read_patch(path)
    assert (point.latitude, point.longitude) == pytest.approx((area.latitude, area.longitude), abs=1e-9)


def test_degrees_and_rotated_grids(tmp_path):
    image = pixels()
    degrees = write_tif(tmp_path / "b.tif", image, crs="EPSG:4326")
    with rasterio.open(degrees, "r+") as file:
        file.transform = Affine(0.001, 0, 10.0, 0, -0.002, 50.0)
    patch = read_patch(degrees)
    assert (patch.longitude, patch.latitude) == pytest.approx((10 + 43 / 2 * 0.001, 50 - 41 / 2 * 0.002))
    with rasterio.open(degrees, "r+") as file:
        file.transform = Affine(0.001, 0.0005, 10.0, 0, -0.002, 50.0)
    patch = read_patch(degrees)
    assert patch.longitude == pytest.approx(10 + 43 / 2 * 0.001 + 41 / 2 * 0.0005)


def test_the_date_tag(tmp_path):
    path = write_tif(tmp_path / "dated.tif", pixels(), tags={"TIFFTAG_DATETIME": "2019:05:04 10:30:00"})
    for read in (geotiff._read_plain, geotiff._read_any):
        assert read(str(path), "collection2_dn", 100).date_tag == "2019:05:04 10:30:00"
    assert read_patch(write_tif(tmp_path / "undated.tif", pixels())).date_tag == ""


def test_each_flaw_of_a_patch_has_its_name(tmp_path):
    (tmp_path / "junk.tif").write_bytes(b"II*\0 no tiff")
    write_tif(tmp_path / "six.tif", pixels(6))
    write_tif(tmp_path / "int.tif", pixels(dtype=np.int16))
    write_tif(tmp_path / "float.tif", pixels(dtype=np.float32))
    write_tif(tmp_path / "zero.tif", pixels() * 0)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write_tif(tmp_path / "nowhere.tif", pixels(), crs=None)
    kinds = {
        "gone.tif": "missing image",
        "junk.tif": "unreadable image",
        "six.tif": "wrong band count",
        "int.tif": "wrong dtype",
        "float.tif": "wrong dtype",
        "zero.tif": "all nodata",
        "nowhere.tif": "no CRS",
    }
    for name, kind in kinds.items():
        with pytest.raises(PatchError, match=name) as error:
            read_patch(tmp_path / name)
        assert error.value.kind == kind
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # workers send it home
    assert read_patch(tmp_path / "zero.tif", keep_nodata=True).image.max() == 0
    nowhere = read_patch(tmp_path / "nowhere.tif", need_crs=False)
    assert np.isnan([nowhere.latitude, nowhere.longitude]).all()
    write_tif(tmp_path / "eight.tif", pixels(8))
    np.testing.assert_array_equal(read_patch(tmp_path / "eight.tif", drop_extra=1).image, pixels(8)[..., :7])
    with pytest.raises(PatchError, match="name the sensor: landsat7"):
        read_patch(tmp_path / "six.tif")


@pytest.mark.parametrize("dtype", ["int32", "float32", "float64"])
def test_numbers_of_other_types_are_taken_where_the_unit_is_given(tmp_path, dtype):
    """Medians of dates are floats, in which reflectance would be as well."""
    path = write_tif(tmp_path / "median.tif", pixels().astype(dtype))
    with pytest.raises(PatchError, match=f"{dtype} where unit='collection2_dn' needs uint16; name the unit"):
        read_patch(path)
    np.testing.assert_array_equal(read_patch(path, InputSpec("collection2_dn")).image, pixels())


def test_bands_that_a_patch_lacks_may_be_filled(tmp_path):
    path = write_tif(tmp_path / "four.tif", pixels(4), descriptions=["red", "green", "blue", "nir"])
    with pytest.raises(PatchError, match="SR_B6, SR_B7 of landsat8 are not among its bands"):
        read_patch(path)
    patch = read_patch(path, InputSpec(fill_missing=True))
    assert patch.bands == landsat.BANDS[1:5]
    np.testing.assert_array_equal(patch.image, pixels(4)[..., [2, 1, 0, 3]])


@pytest.mark.parametrize("described", [True, False])
def test_a_fourth_band_that_is_named_is_no_alpha(tmp_path, described):
    """GDAL makes the last of four bands of bytes alpha, unless it is told otherwise."""
    image = (pixels(4) // 100).astype(np.uint8)
    names = ("red", "green", "blue", "nir")
    path = write_tif(tmp_path / "four.tif", image, descriptions=names if described else None)
    with rasterio.open(path) as file:
        assert file.colorinterp[3].name == "alpha"
    bands = None if described else names
    spec = InputSpec("uint8", bands=bands, fill_missing=True)
    np.testing.assert_array_equal(read_patch(path, spec).image, image[..., [2, 1, 0, 3]] if described else image)
    info = open_scene(path, bands)
    with SceneReader(info, landsat.BANDS[1:5], "uint8") as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 41, 43), image[..., [2, 1, 0, 3]])
    with pytest.raises(PatchError, match="3 bands|SR_B5"):  # of one that nobody names it is alpha
        read_patch(write_tif(tmp_path / "alpha.tif", image), InputSpec("uint8"))


@pytest.mark.parametrize("read", [geotiff._read_plain, geotiff._read_any])
def test_the_nodata_number_of_a_file_becomes_0(tmp_path, read, monkeypatch):
    monkeypatch.setattr(geotiff, "_read_plain", read)
    tagged = pixels()
    tagged[:3] = 65535
    patch = read_patch(write_tif(tmp_path / "tagged.tif", tagged, nodata=65535))
    assert (patch.image[:3] == 0).all() and (patch.image[3:] == tagged[3:]).all()
    with pytest.raises(PatchError, match="all nodata"):
        read_patch(write_tif(tmp_path / "empty.tif", tagged * 0 + 65535, nodata=65535))
    floats = pixels(dtype=np.float32) / 30000
    floats[0] = -1
    patch = read_patch(write_tif(tmp_path / "floats.tif", floats, nodata=-1), InputSpec("reflectance"))
    assert np.isnan(patch.image[0]).all() and not np.isnan(patch.image[1:]).any()


def test_bands_go_by_their_names(tmp_path):
    """In any order, among others, by number of the sensor; those of no Landsat band, and Sentinel-2's, are refused."""
    image = pixels()
    read = lambda channels, described, name="p.tif", **options: read_patch(
        write_tif(tmp_path / name, image[..., channels], descriptions=described), InputSpec(**options)
    )
    colours = ["swir2", "coastal", "red", "blue", "nir", "green", "swir1"]
    order = [6, 0, 3, 1, 4, 2, 5]
    np.testing.assert_array_equal(read(order, colours).image, image)
    extra = [*(f"LC08_L2SP_SR_B{i + 1}" for i in order), "ST_B10", "QA_PIXEL"]
    np.testing.assert_array_equal(read([*order, 0, 1], extra).image, image)
    stac = ["coastal", "blue", "green", "red", "nir08", "swir16", "swir22"]
    np.testing.assert_array_equal(read(range(7), stac).image, image)
    np.testing.assert_array_equal(read(range(7), [f"Band {i}" for i in range(1, 8)]).image, image)  # tools write these
    backwards = read(range(7), [f"Band {i}" for i in range(7, 0, -1)])
    np.testing.assert_array_equal(backwards.image, image[..., ::-1])
    thematic_mapper = ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "ST_B6", "SR_B7"]
    five = read(range(7), thematic_mapper, name="LT05_L2SP_193026_20050613_20200902_02_T1.tif")
    np.testing.assert_array_equal(five.image, image[..., [0, 1, 2, 3, 4, 6]])
    assert five.bands == landsat.BANDS[1:]
    colours = read(range(6), ["blue", "green", "red", "nir", "swir1", "swir2"])  # of Landsat 8, without the coastal band
    assert colours.bands == landsat.BANDS[1:]
    for names, message in (
        (["B2", "B3", "B4", "B8", "B8A", "B11", "B12"], "B8A is Sentinel-2's"),
        (thematic_mapper, "ST_B6 is a thermal band of Landsat 4, 5 or 7, not of landsat8; name the sensor: landsat7"),
        (["a", "b", "c", "d", "e", "f", "g"], "not among its bands, a, b, c"),
        (["red", "B4", "c", "d", "e", "f", "g"], "band SR_B4 is named twice"),
    ):
        with pytest.raises(PatchError, match=message) as error:
            read(range(7), names)
        assert error.value.kind == "wrong bands"
    given = read(range(7), ["a", "b", "c", "d", "e", "f", "g"], bands=("red", "nir", "b", "c", "d", "e", "f"))
    np.testing.assert_array_equal(given.image, image)  # the user knows better
    with pytest.raises(PatchError, match="7 bands, but 2 names") as error:
        read(range(7), None, bands=("red", "nir"))
    with pytest.raises(PatchError, match="by its name it is landsat5's, not landsat8's") as error:
        read(range(7), None, name="LT05_L2SP_193026_20050613_20200902_02_T1.tif", sensor="landsat8")
    assert error.value.kind == "wrong sensor"


@pytest.mark.parametrize("where", ["inside", "beside", "alpha", "nodata beside"])
def test_masks_of_every_kind_are_no_data(tmp_path, where):
    image = pixels()
    lacking = np.zeros((41, 43), bool)
    lacking[:, :20] = True
    path = tmp_path / "masked.tif"
    if where == "alpha":
        opaque = np.where(lacking, 0, 65535).astype(np.uint16)
        write_tif(path, np.concatenate([image, opaque[..., None]], axis=2))
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [rasterio.enums.ColorInterp.gray] * 7 + [rasterio.enums.ColorInterp.alpha]
    elif where == "nodata beside":
        image[lacking] = 5
        write_tif(path, image)
        bands = "".join(f'<PAMRasterBand band="{i}"><NoDataValue>5</NoDataValue></PAMRasterBand>' for i in range(1, 8))
        (tmp_path / "masked.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    else:
        write_tif(path, image)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=where == "inside"), rasterio.open(path, "r+") as file:
            file.write_mask(~lacking)
        assert (tmp_path / "masked.tif.msk").exists() == (where == "beside")
    patch = read_patch(path)
    assert (patch.image[lacking] == 0).all()
    np.testing.assert_array_equal(patch.image[~lacking], image[~lacking])


def test_what_a_file_says_of_its_bands_is_read_however_it_is_written(tmp_path):
    """The attributes in another order and other quotes than GDAL's own."""
    import tifffile

    image = pixels()
    path = write_tif(tmp_path / "a.tif", image[..., ::-1], descriptions=landsat.BANDS[::-1])
    scaled = write_tif(tmp_path / "b.tif", image)
    with rasterio.open(scaled, "r+") as file:
        file.scales = [1e-4] * 7
    for one in (path, scaled):
        with tifffile.TiffFile(one, mode="r+b") as tif:
            tag = tif.pages.first.tags[42112]
            item = r'name="(\w+)" sample="(\d)" role="(\w+)"'
            tag.overwrite(re.sub(item, r"sample='\2' role='\3' name='\1'", tag.value))
    np.testing.assert_array_equal(read_patch(path).image, image)
    with pytest.raises(PatchError, match="scale 0.0001 and offset 0 say hls, not collection2_dn"):
        read_patch(scaled)


def test_half_precision_is_what_gdal_makes_of_it(tmp_path):
    reflectance = (pixels() * 2.75e-5 - 0.2).astype(np.float32)
    path = write_tif(tmp_path / "half.tif", reflectance, nbits=16)
    patch = read_patch(path, InputSpec(unit="reflectance"))
    assert patch.image.dtype == np.float32
    np.testing.assert_allclose(patch.image, reflectance, atol=5e-4)


def test_coordinates_that_lead_nowhere(tmp_path):
    """A plan's CRS says no place, like none; an unknown code is an error; a negative scale means what GDAL takes it for."""
    import tifffile

    plan = write_tif(tmp_path / "plan.tif", pixels(), crs=rasterio.crs.CRS.from_wkt('LOCAL_CS["unnamed",UNIT["metre",1]]'))
    assert np.isnan(read_patch(plan, need_crs=False).latitude)
    with pytest.raises(PatchError, match="no CRS: the file has a CRS of no place on Earth"):
        read_patch(plan)

    def tagged(name, epsg, scale):
        keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg)
        tags = [
            (33550, "d", 3, scale),
            (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 5300000.0, 0.0)),
            (34735, "H", len(keys), keys),
        ]
        path = tmp_path / name
        options = dict(photometric="minisblack", planarconfig="contig")
        tifffile.imwrite(path, pixels(), extratags=[(*tag, True) for tag in tags], **options)
        return path

    for need_crs in (True, False):
        with pytest.raises(PatchError, match="unknown.tif: no CRS: its CRS cannot be used"):
            read_patch(tagged("unknown.tif", 9999, (30.0, 30.0, 0.0)), need_crs=need_crs)
    plain, upside_down = (read_patch(tagged("scale.tif", 32633, (30.0, y, 0.0))) for y in (30.0, -30.0))
    info = open_scene(tmp_path / "scale.tif")
    _, y = info.transform @ (43 / 2, 41 / 2)
    latitude = pyproj.Transformer.from_crs(32633, 4326, always_xy=True).transform(500645, y)[1]
    assert upside_down.latitude == pytest.approx(latitude, abs=1e-9)
    assert plain.latitude == pytest.approx(
        pyproj.Transformer.from_crs(32633, 4326, always_xy=True).transform(500645, 5299385)[1]
    )


def test_values_that_are_none_of_the_unit(tmp_path):
    floats = (pixels() * 2.75e-5 - 0.2).astype(np.float32)
    for value in (-9999.0, np.inf):
        floats[3, 3, 3] = value
        with pytest.raises(PatchError, match="stray.tif: wrong values") as error:
            read_patch(write_tif(tmp_path / "stray.tif", floats), InputSpec("reflectance"))
        assert error.value.kind == "wrong values"
    floats[3, 3, 3] = np.nan
    assert np.isnan(read_patch(write_tif(tmp_path / "nan.tif", floats), InputSpec("reflectance")).image).sum() == 1
    scaled = pixels(dtype=np.int16) // 4
    scaled[0] = -9999
    np.testing.assert_array_equal(read_patch(write_tif(tmp_path / "hls.tif", scaled), InputSpec("hls")).image, scaled)


@pytest.mark.parametrize("read", [geotiff._read_plain, geotiff._read_any])
def test_numbers_that_the_file_says_to_be_others_are_refused(tmp_path, read, monkeypatch):
    """By scale and offset of its bands, or by its name; what goes with the unit that was given is taken."""
    monkeypatch.setattr(geotiff, "_read_plain", read)

    def scaled(name, scale, offset, dtype=np.uint16):
        path = write_tif(tmp_path / name, (pixels() // 4).astype(dtype))
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = [scale] * 7, [offset] * 7
        return path

    hls, own = scaled("a.tif", 1e-4, 0.0, np.int16), scaled("b.tif", 2.75e-5, -0.2)
    with pytest.raises(PatchError, match="wrong unit: scale 0.0001 and offset 0 say hls, not collection2_dn; name the unit"):
        read_patch(hls)
    with pytest.raises(PatchError, match="say collection2_dn, and 'hls' was given: which is right"):
        read_patch(own, InputSpec("hls"))
    odd = scaled("c.tif", 1e-4, -0.1)
    with pytest.raises(PatchError, match="scale 0.0001 and offset -0.1 are of no unit that is known; name the unit"):
        read_patch(odd)
    read_patch(odd, InputSpec("collection2_dn"))
    left = write_tif(tmp_path / "d.tif", pixels(dtype=np.float32) / 30000)
    with rasterio.open(left, "r+") as file:  # as programs leave it that bring numbers to reflectance
        file.scales, file.offsets = [2.75e-5] * 7, [-0.2] * 7
    read_patch(left, InputSpec("reflectance"))
    more = write_tif(tmp_path / "e.tif", pixels(8), descriptions=[*landsat.BANDS, "ST_EMIS"])
    with rasterio.open(more, "r+") as file:  # a band that is not taken says nothing of the others
        file.scales, file.offsets = [2.75e-5] * 7 + [1e-4], [-0.2] * 7 + [0.0]
    assert len(read_patch(more).bands) == 7
    assert len(read_patch(own).bands) == len(read_patch(hls, InputSpec("hls")).bands) == 7
    assert len(read_patch(hls, InputSpec("collection1_sr")).bands) == 7  # the same numbers
    for name, unit in (
        ("LC08_L1TP_193026_20210613_20210622_02_T1_1.tif", "level1_dn"),
        ("HLS.L30.T33UUP.2021164T100231.v2.0.tif", "hls"),
    ):
        path = write_tif(tmp_path / name, pixels() // 4)
        with pytest.raises(PatchError, match=f"by its name its numbers are {unit}, not collection2_dn"):
            read_patch(path)
        read_patch(path, InputSpec(unit))
    with pytest.raises(PatchError, match="wrong sensor: HLS S30 is Sentinel-2's"):
        read_patch(write_tif(tmp_path / "HLS.S30.T33UUP.2021164T100231.v2.0.tif", pixels() // 4), InputSpec("hls"))


def test_places_that_are_none_are_not_made_up(tmp_path):
    """Metres where the CRS has degrees; a CRS without the origin of the pixels. Longitudes beyond 360 are places."""
    with pytest.raises(PatchError, match="no CRS: its coordinates .* are outside its CRS"):
        read_patch(write_tif(tmp_path / "metres.tif", pixels(), crs="EPSG:4326"))
    profile = dict(driver="GTiff", height=41, width=43, count=7, dtype="uint16")
    with rasterio.open(tmp_path / "nowhere.tif", "w", **profile, crs="EPSG:32632") as file:
        file.write(np.moveaxis(pixels(), 2, 0))
    assert np.isnan(read_patch(tmp_path / "nowhere.tif", need_crs=False).latitude)
    with pytest.raises(PatchError, match="no CRS: the file is not georeferenced"):
        read_patch(tmp_path / "nowhere.tif")
    transform = rasterio.transform.from_origin(365, 10, 2 / 43, 2 / 41)
    with rasterio.open(tmp_path / "east.tif", "w", **profile, crs="EPSG:4326", transform=transform) as file:
        file.write(np.moveaxis(pixels(), 2, 0))
    patch = read_patch(tmp_path / "east.tif")
    np.testing.assert_allclose([patch.latitude, patch.longitude], [9, 6])


def test_modis_numbers_other_wavelengths(tmp_path):
    names = [f"sur_refl_b0{i}" for i in range(1, 8)]
    with pytest.raises(PatchError, match="sur_refl_b01 is MODIS's"):
        read_patch(write_tif(tmp_path / "m.tif", pixels(), descriptions=names))


def test_a_patch_that_control_points_locate(tmp_path):
    path = tmp_path / "gcps.tif"
    with rasterio.open(path, "w", driver="GTiff", height=40, width=40, count=7, dtype="uint16") as file:
        file.write(np.moveaxis(pixels(size=(40, 40)), 2, 0))
        corners = [(row, column) for row in (0, 40) for column in (0, 40)]
        points = [rasterio.control.GroundControlPoint(r, c, 500_000 + 30 * c, 5_300_000 - 30 * r) for r, c in corners]
        file.gcps = points, rasterio.crs.CRS.from_epsg(32632)
    patch = read_patch(path)
    lon, lat = pyproj.Transformer.from_crs(32632, 4326, always_xy=True).transform(500_600, 5_299_400)
    np.testing.assert_allclose([patch.latitude, patch.longitude], [lat, lon], atol=1e-6)


@pytest.mark.parametrize("fill_missing", [False, True])
def test_numbers_of_landsat_5_need_its_name(tmp_path, fill_missing):
    names = [f"SR_B{i}" for i in (1, 2, 3, 4, 5, 7)]
    path = write_tif(tmp_path / "six.tif", pixels(6), descriptions=names)
    plain = write_tif(tmp_path / "plain.tif", pixels(6))
    for file, spec in (
        (path, InputSpec(fill_missing=fill_missing)),
        (plain, InputSpec(bands=names, fill_missing=fill_missing)),
    ):
        with pytest.raises(PatchError, match="numbered as those of Landsat 4, 5 and 7; name the sensor") as caught:
            read_patch(file, spec)
        assert caught.value.kind == "wrong bands"
    assert read_patch(path, InputSpec(sensor="landsat5")).bands == landsat.BANDS[1:]
    assert "SR_B6" not in read_patch(path, InputSpec(sensor="landsat8", fill_missing=True)).bands
    named = write_tif(tmp_path / "LT05_L2SP_193026_20050613_20200902_02_T1.tif", pixels(6), descriptions=names)
    assert read_patch(named).bands == landsat.BANDS[1:]


@pytest.mark.parametrize(
    "unit, dtypes",
    [
        ("collection2_dn", ("int16", "uint32", "int64")),
        ("hls", ("float64", "int64")),
        ("level1_dn", ("float32", "int32", "int16")),
        ("uint8", ("int16", "float32")),
    ],
)
def test_numbers_of_a_unit_come_in_any_type_that_holds_them(tmp_path, unit, dtypes):
    for dtype in dtypes:
        image = (pixels() // (200 if unit == "uint8" else 2)).astype(dtype)
        path = write_tif(tmp_path / f"{dtype}.tif", image)
        options = dict(sun_elevation=50.0) if unit == "level1_dn" else {}
        np.testing.assert_array_equal(read_patch(path, InputSpec(unit, **options)).image, image)
        np.testing.assert_array_equal(SceneReader(open_scene(path), landsat.BANDS, unit).read(0, 0, 41, 43), image)

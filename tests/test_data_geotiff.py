"""One patch from a GeoTIFF: every form that files have, every flaw by name."""

import pickle

import numpy as np
import pytest
import rasterio
from affine import Affine
from geotiffs import pixels, write_tif

from geomoe.data import geotiff
from geomoe.data.geotiff import PatchError, read_patch

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
    infinite = pixels(dtype=np.float32)
    infinite[0, 0, 0] = np.inf
    write_tif(tmp_path / "infinite.tif", infinite)
    write_tif(tmp_path / "zero.tif", pixels() * 0)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write_tif(tmp_path / "nowhere.tif", pixels(), crs=None)
    kinds = {
        "gone.tif": "missing image",
        "junk.tif": "unreadable image",
        "six.tif": "wrong band count",
        "int.tif": "wrong dtype",
        "infinite.tif": "wrong values",
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
    patch = read_patch(write_tif(tmp_path / "floats.tif", floats, nodata=-1), unit="reflectance")
    assert np.isnan(patch.image[0]).all() and not np.isnan(patch.image[1:]).any()

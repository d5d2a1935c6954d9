"""Rasters of embeddings: Cloud Optimized GeoTIFFs in three types, that other readers understand."""

import json

import numpy as np
import pyproj
import pytest
import rasterio
import tifffile
from geotiffs import pixels, write_tif
from rasterio.transform import from_origin

from geomoe import embeddings
from geomoe.data.preprocess import InputSpec
from geomoe.embeddings.rasters import write_geotiff
from geomoe.embeddings.vectors import StoredParts

HEIGHT, WIDTH, BANDS = 200, 300, 5
GRID = dict(height=HEIGHT, width=WIDTH, transform=from_origin(5e5, 5e6, 120, 120), crs=rasterio.crs.CRS.from_epsg(32633))


@pytest.fixture(scope="module")
def vectors():
    """(H, W, D), of dimensions with means and ranges of their own, a corner of them NaN."""
    rng = np.random.default_rng(0)
    out = (rng.normal(size=(HEIGHT, WIDTH, BANDS)) * [1, 2, 0.1, 1, 0] + [0, 10, 0, -3, 0]).astype(np.float32)
    out[:40, :50] = np.nan
    return out


def write(path, vectors, dtype, interleave="pixel"):
    rows = [slice(0, 7), slice(7, 150), slice(150, HEIGHT)]
    parts = [
        {"vector": vectors[r].reshape(-1, BANDS), "embedded": np.isfinite(vectors[r]).all(axis=-1).reshape(-1)} for r in rows
    ]
    stored = StoredParts(parts, dtype)
    write_geotiff(str(path), stored, {"time": "2020-05-18T10:00:00", **stored.facts}, GRID, interleave)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_cloud_optimized_geotiff(vectors, tmp_path, dtype):
    path = write(tmp_path / "x.tif", vectors, dtype)
    with rasterio.open(path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.overviews(1) == [2, 4]
        assert file.block_shapes[0] == (128, 128) and file.compression.name == "deflate"
        assert file.descriptions == tuple(f"embedding {i}" for i in range(BANDS)) and file.crs.to_epsg() == 32633
        assert file.transform == GRID["transform"] and json.loads(file.tags()["geomoe"])["time"].startswith("2020")
        assert file.dtypes[0] == ("int8" if dtype == "int8" else "float32")
        assert file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS") == ("16" if dtype == "float16" else None)
        values, scales = file.read(masked=True), np.array(file.scales)
    np.testing.assert_array_equal(values.mask[0], np.isnan(vectors[..., 0]))
    np.testing.assert_array_equal(scales != 1, [dtype == "int8"] * 4 + [False])  # a dimension without values stays as it is
    restored = np.moveaxis(values.filled(0) * scales[:, None, None], 0, 2)
    here = np.isfinite(vectors).all(axis=-1)
    a, b = restored[here].astype(float), vectors[here].astype(float)
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999
    if dtype == "float32":
        np.testing.assert_array_equal(a, b)
    elif dtype == "float16":
        np.testing.assert_array_equal(a, b.astype(np.float16))
    else:
        assert (np.abs(a - b) <= np.abs(b).max(axis=0) / 254 * 1.001).all()
    with rasterio.open(path, overview_level=0) as small:
        mean = vectors[100:102, 100:102].mean(axis=(0, 1))
        np.testing.assert_allclose(small.read()[:, 50, 50] * scales, mean, atol=np.abs(b).max() / 100)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_bands_by_themselves(vectors, tmp_path, dtype):
    """The same file but for the order of its values: overviews come first, the directories of all images before the values."""
    write(tmp_path / "pixel.tif", vectors, dtype)
    write(tmp_path / "band.tif", vectors, dtype, "band")
    with rasterio.open(tmp_path / "pixel.tif") as pixel, rasterio.open(tmp_path / "band.tif") as band:
        assert (pixel.interleaving.name, band.interleaving.name) == ("pixel", "band")
        np.testing.assert_array_equal(pixel.read(), band.read())
        for name in ("dtypes", "block_shapes", "descriptions", "crs", "transform", "compression", "scales"):
            assert getattr(pixel, name) == getattr(band, name), name
        assert str(pixel.nodata) == str(band.nodata) and pixel.tags()["geomoe"] == band.tags()["geomoe"]
        assert band.overviews(1) == [2, 4]
    with (
        rasterio.open(tmp_path / "pixel.tif", overview_level=0) as a,
        rasterio.open(tmp_path / "band.tif", overview_level=0) as b,
    ):
        np.testing.assert_array_equal(a.read(), b.read())
    with tifffile.TiffFile(tmp_path / "band.tif") as file:
        starts = [min(page.dataoffsets) for page in file.pages]
        assert starts == sorted(starts, reverse=True) and max(page.offset for page in file.pages) < min(starts)
        assert len(file.pages[0].dataoffsets) == BANDS * 2 * 3  # a tile of each band


def test_an_interleave_that_would_be_ignored_is_refused(tmp_path):
    with pytest.raises(ValueError, match="interleave = 'band' is for .tif; .*x.parquet would ignore it"):
        embeddings.Sink(tmp_path / "x.parquet", interleave="band")
    with pytest.raises(ValueError, match="interleave = 'line' is none of pixel, band"):
        embeddings.Sink(tmp_path / "x.tif", interleave="line")


def test_read_back_as_a_table(vectors, tmp_path):
    for dtype in ("float32", "int8"):
        table = embeddings.read(write(tmp_path / f"{dtype}.tif", vectors, dtype))
        assert table["vector"].dtype == np.float32 and table["id"][WIDTH + 2] == "1_2"
        np.testing.assert_array_equal(table["embedded"], np.isfinite(vectors).all(axis=-1).reshape(-1))
        assert (table["time"] == np.datetime64("2020-05-18T10:00:00")).all()
        to_wgs84 = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
        place = to_wgs84.transform(5e5 + 120 * 2.5, 5e6 - 120 * 1.5)
        assert (table["longitude"][WIDTH + 2], table["latitude"][WIDTH + 2]) == pytest.approx(place)
    np.testing.assert_allclose(table["vector"], vectors.reshape(-1, BANDS), atol=np.nanmax(np.abs(vectors)) / 254 * 1.001)


def test_other_rasters_are_refused(tmp_path):
    with rasterio.open(
        tmp_path / "x.tif", "w", driver="GTiff", height=2, width=2, count=1, dtype="uint8", crs="EPSG:4326"
    ) as file:
        file.write(np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"x.tif is no file of embeddings"):
        embeddings.read(tmp_path / "x.tif")
    (tmp_path / "y.tif").write_text("no")
    with pytest.raises(ValueError, match=r"y.tif: cannot be read as GeoTIFF"):
        embeddings.read(tmp_path / "y.tif")


def test_a_file_that_cannot_be_written_leaves_nothing(vectors, tmp_path, monkeypatch):
    import rasterio.shutil

    def fail(*args, **options):
        raise rasterio.errors.RasterioIOError("no space left")

    monkeypatch.setattr(rasterio.shutil, "copy", fail)
    with pytest.raises(OSError, match=r"x.tif cannot be written: no space left"):
        write(tmp_path / "x.tif", vectors, "float32")
    assert not list(tmp_path.iterdir())


def test_longitudes_beyond_180_are_the_same_in_every_format(encoder, tmp_path):
    """A raster that counts degrees from 0 to 360, as some do: windows of 189 to 190 degrees east lie at 171 to 170 west."""
    profile = dict(driver="GTiff", height=24, width=24, count=7, dtype="uint16", crs="EPSG:4326")
    transform = from_origin(189, 10, 0.04, 0.04)
    with rasterio.open(tmp_path / "east.tif", "w", **profile, transform=transform) as file:
        file.write(np.moveaxis(pixels(size=(24, 24)), 2, 0))
    spec = InputSpec("collection2_dn")
    for name in ("e.npz", "e.tif"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / name), tmp_path / "east.tif", spec=spec, stride=8)
    table, raster = (embeddings.read(tmp_path / name) for name in ("e.npz", "e.tif"))
    expected = np.tile([-170.84, -170.52, -170.2], 3)
    np.testing.assert_allclose(table["longitude"], expected, atol=1e-9)
    np.testing.assert_allclose(raster["longitude"], expected, atol=1e-9)


def test_a_file_whose_end_did_not_reach_the_disk_is_not_said_to_be_written(vectors, tmp_path, monkeypatch):
    """GDAL raises nothing where closing a file fills the disk; at any length that is left."""
    import rasterio.shutil

    copy = rasterio.shutil.copy
    write(tmp_path / "whole.tif", vectors, "float32")
    for share in (0.999, 0.9, 0.5):

        def cut(raw, path, share=share, **options):
            copy(raw, path, **options)
            with open(path, "r+b") as file:
                file.truncate(int(share * (tmp_path / "whole.tif").stat().st_size))

        monkeypatch.setattr(rasterio.shutil, "copy", cut)
        with pytest.raises(OSError, match=r"x.tif cannot be written"):
            write(tmp_path / "x.tif", vectors, "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.tif"]


def test_a_copy_that_lost_the_scales_has_those_of_its_tags(vectors, tmp_path):
    """As rasterio's profile, pixels and tags make it; of some of its bands nothing says which scales are theirs."""
    path = write(tmp_path / "map.tif", vectors, "int8")
    whole = embeddings.read(path)["vector"].reshape(HEIGHT, WIDTH, BANDS)
    with rasterio.open(path) as file:
        profile = {**file.profile, "driver": "GTiff", "height": 2, "width": 2, "tiled": False}
        part, tags = file.read(window=((90, 92), (60, 62))), file.tags()
    for key in ("blockxsize", "blockysize"):
        profile.pop(key, None)
    for bands in (BANDS, BANDS - 1):
        with rasterio.open(tmp_path / f"{bands}.tif", "w", **{**profile, "count": bands}) as file:
            file.write(part[:bands])
            file.update_tags(**tags)
    np.testing.assert_array_equal(embeddings.read(tmp_path / f"{BANDS}.tif")["vector"], whole[90:92, 60:62].reshape(-1, BANDS))
    with pytest.raises(ValueError, match=f"has {BANDS - 1} bands of {BANDS}, and their scales are lost"):
        embeddings.read(tmp_path / f"{BANDS - 1}.tif")


@pytest.mark.parametrize("ending", ["tif", "zarr"])
def test_a_map_of_a_plan_has_pixels_of_no_place(encoder, tmp_path, ending):
    scene = write_tif(tmp_path / "scene.tif", pixels(size=(16, 16)), crs='LOCAL_CS["plan",UNIT["metre",1]]')
    sink = embeddings.Sink(str(tmp_path / f"map.{ending}"))
    embeddings.embed_scene(encoder, sink, str(scene), spec=InputSpec("collection2_dn"))
    table = embeddings.read(sink.output)
    assert np.isnan(table["latitude"]).all() and np.isnan(table["longitude"]).all() and table["embedded"].any()

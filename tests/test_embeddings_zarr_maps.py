"""Zarr stores of embeddings: what xarray and rioxarray read from them is the GeoTIFF of the same map."""

import json

import numpy as np
import pytest
import rasterio
from embedding_tools import ORIGIN, make_ground
from geotiffs import write_tif
from rasterio.transform import Affine, from_origin

from geomoe import embeddings
from geomoe.cli import embed, info, search
from geomoe.embeddings import zarr_maps
from geomoe.embeddings.vectors import StoredParts

xarray, rioxarray = pytest.importorskip("xarray"), pytest.importorskip("rioxarray")
pytest.importorskip("zarr")
HEIGHT, WIDTH, BANDS = 150, 90, 5  # two chunks and a bit, by one and a bit
GRID = dict(height=HEIGHT, width=WIDTH, transform=from_origin(5e5, 5e6, 120, 120), crs=rasterio.crs.CRS.from_epsg(32633))


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("zarr") / "LC08_L2SP_191028_20200518_20200820_02_T1.TIF"
    ground = make_ground()
    ground[:16, :16] = 0
    return write_tif(path, ground, origin=ORIGIN)


@pytest.fixture(scope="module")
def vectors():
    out = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, BANDS)).astype(np.float32)
    out[:40, :50] = np.nan
    return out


def write(path, vectors, dtype="float32", **changes):
    rows = [slice(0, 7), slice(7, 140), slice(140, HEIGHT)]
    parts = [{"vector": vectors[r].reshape(-1, BANDS)} for r in rows]
    stored = StoredParts(parts, dtype, one_scale=True)
    zarr_maps.write_zarr(str(path), stored, {"time": "2020-05-18T10:00:00", **stored.facts}, {**GRID, **changes})
    return path


@pytest.mark.parametrize("resolution", ["window", "token"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_map_is_that_of_the_geotiff(encoder, scene_file, tmp_path, resolution, dtype):
    """Values, pixels without data, middles of the pixels, CRS and facts; int8 to half a step of each file's scale."""
    for ending in ("tif", "zarr"):
        sink = embeddings.Sink(tmp_path / f"map.{ending}", dtype=dtype)
        embeddings.embed_scene(encoder, sink, scene_file, resolution=resolution, min_valid=0.9)
    store = xarray.open_zarr(tmp_path / "map.zarr")
    raster = rioxarray.open_rasterio(tmp_path / "map.tif", mask_and_scale=True)
    data = store["embedding"]
    assert data.dims == ("dimension", "y", "x") and data.shape == raster.shape
    np.testing.assert_array_equal(store["dimension"], np.arange(16))
    np.testing.assert_allclose(store["x"], raster["x"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(store["y"], raster["y"], rtol=0, atol=1e-9)
    assert data.rio.crs == raster.rio.crs and data.rio.crs.to_epsg() == 32633
    assert data.rio.transform() == raster.rio.transform() and data.rio.bounds() == raster.rio.bounds()
    assert store["time"].values == np.datetime64("2020-05-18T00:00:00")
    assert 0 < np.isnan(raster.values).sum() < raster.size
    np.testing.assert_array_equal(np.isnan(data.values), np.isnan(raster.values))
    if dtype == "int8":
        raw = xarray.open_zarr(tmp_path / "map.zarr", mask_and_scale=False)["embedding"]
        step = raw.attrs["scale_factor"]
        assert raw.dtype == np.int8 and np.abs(np.where(raw == -128, 0, raw)).max() == 127
        assert np.nanmax(np.abs(data.values - raster.values)) <= step  # half a step of each file's
        assert json.loads(store.attrs["geomoe"])["vector_scale"] == [step] * 16
    else:
        np.testing.assert_array_equal(data.values.astype(np.float32), raster.values)
        assert data.dtype == dtype
    with rasterio.open(tmp_path / "map.tif") as file:
        facts = json.loads(file.tags()["geomoe"])
    facts.pop("vector_scale", None)
    assert facts.items() <= json.loads(store.attrs["geomoe"]).items()
    assert store.attrs["encoder_sha256"] == encoder.fingerprint and store.attrs["pool"] == facts["pool"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "map.tif",
        "map.tif.stac.json",
        "map.zarr",
        "map.zarr.stac.json",
    ]
    tables = [embeddings.read(tmp_path / name) for name in ("map.tif", "map.zarr")]
    for key in ("id", "latitude", "longitude", "time", "embedded"):
        np.testing.assert_array_equal(tables[0][key], tables[1][key])
    cosine = np.sum(tables[0]["vector"] * tables[1]["vector"], axis=1)[tables[0]["embedded"]]
    lengths = [np.linalg.norm(table["vector"], axis=1)[tables[0]["embedded"]] for table in tables]
    assert (cosine / lengths[0] / lengths[1]).min() > 0.999


def test_blocks_of_any_number_of_rows_make_whole_chunks(vectors, tmp_path):
    store = xarray.open_zarr(write(tmp_path / "a.zarr", vectors))
    np.testing.assert_array_equal(np.moveaxis(store["embedding"].values, 0, 2), vectors)
    assert store["embedding"].encoding["chunks"] == (BANDS, 64, 64)
    assert store["x"].values[[0, 1]].tolist() == [500060.0, 500180.0] and store["y"].values[0] == 4999940.0
    assert store["x"].attrs["standard_name"] == "projection_x_coordinate"
    np.testing.assert_array_equal(embeddings.read(f"{tmp_path}/a.zarr/")["vector"], vectors.reshape(-1, BANDS))


def test_grids_without_a_crs_or_turned(vectors, tmp_path):
    bare = xarray.open_zarr(write(tmp_path / "bare.zarr", vectors, crs=None))["embedding"]
    assert bare.rio.crs is None and bare["x"].values[0] == 500060.0
    assert np.isnan(embeddings.read(tmp_path / "bare.zarr")["latitude"]).all()
    turned = Affine.translation(5e5, 5e6) @ Affine.rotation(30) @ Affine.scale(120, -120)
    data = xarray.open_zarr(write(tmp_path / "turned.zarr", vectors, transform=turned))["embedding"]
    assert "x" not in data.coords and data.rio.transform().almost_equals(turned)
    degrees = dict(crs=rasterio.crs.CRS.from_epsg(4326), transform=from_origin(10, 50, 0.001, 0.001))
    data = xarray.open_zarr(write(tmp_path / "degrees.zarr", vectors, **degrees))["embedding"]
    assert data.rio.crs.to_epsg() == 4326 and data["y"].attrs["standard_name"] == "latitude"
    assert embeddings.read(tmp_path / "degrees.zarr")["latitude"][0] == pytest.approx(49.9995)


def test_a_failure_leaves_nothing_and_an_older_store_is_replaced(vectors, tmp_path, monkeypatch):
    older = write(tmp_path / "a.zarr", vectors)
    write(older, vectors + 1)
    np.testing.assert_array_equal(embeddings.read(older)["vector"], vectors.reshape(-1, BANDS) + 1)

    def fail(parts, cells):
        yield np.zeros((cells, BANDS), np.float32)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zarr_maps, "_bands", fail)
    with pytest.raises(OSError, match="No space left on device: '.*b.zarr'"):
        write(tmp_path / "b.zarr", vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(ValueError, match="x.zarr is no file of embeddings"):
        embeddings.read(tmp_path / "x.zarr")
    xarray.Dataset({"embedding": ("x", [1.0])}).to_zarr(tmp_path / "y.zarr", zarr_format=2)
    with pytest.raises(ValueError, match="y.zarr is no file of embeddings"):
        embeddings.read(tmp_path / "y.zarr")


def test_the_commands(run_dir, scene_file, tmp_path, capsys):
    store = str(tmp_path / "map.zarr")
    embed.main(["--checkpoint", str(run_dir), "--scene", str(scene_file), "--resolution", "token", "--output", store])
    size = sum(path.stat().st_size for path in (tmp_path / "map.zarr").rglob("*")) / 1e6
    assert f"{size:.1f} MB" in capsys.readouterr().out
    table = embeddings.read(store)
    row = np.flatnonzero(table["embedded"])[0]
    info.main([f"{store}/"])
    told = capsys.readouterr().out
    assert f"{table['embedded'].sum()} of them embedded" in told and "tokens" in told
    like = f"{table['latitude'][row]},{table['longitude'][row]}"
    search.main(["--embeddings", f"{store}/", "--like", like, "-k", "3", "--output", str(tmp_path / "hits.geojson")])
    hits = json.loads((tmp_path / "hits.geojson").read_text())["features"]
    assert hits[0]["properties"]["id"] == table["id"][row] and len(hits) == 4


def test_zero_is_a_number_like_any_other(tmp_path):
    xarray = pytest.importorskip("xarray")
    data = xarray.open_zarr(write(tmp_path / "m.zarr", np.zeros((HEIGHT, WIDTH, BANDS), np.float32)))["embedding"]
    assert not np.isnan(data.values).any()

"""The STAC item beside the embeddings of a scene: valid, and true."""

import json

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.warp
from embedding_tools import ORIGIN, make_ground
from geotiffs import write_tif
from pystac import validation

from geomoe import embeddings


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("item") / "LC08_L2SP_191028_20200518_20200820_02_T1.TIF"
    return write_tif(path, make_ground(), origin=ORIGIN)


def valid_item(path):
    """The item as pystac reads it, valid by STAC 1.1 (the schemas of extensions lie on the network)."""
    content = json.loads(path.read_text())
    validation.validate_dict({**content, "stac_extensions": []})
    return pystac.Item.from_file(path)


@pytest.mark.parametrize(
    ("name", "resolution", "dtype"),
    [
        ("a.tif", "token", "int8"),
        ("a.tif", "window", "float16"),
        ("a.parquet", "window", "float32"),
        ("a.npz", "window", "int8"),
    ],
)
def test_what_an_item_says(encoder, scene_file, tmp_path, name, resolution, dtype):
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / name, dtype=dtype), scene_file, resolution=resolution)
    item = valid_item(tmp_path / f"{name}.stac.json")
    assert item.id == "a" and item.datetime.isoformat().startswith("2020-05-18")
    facts = item.properties
    assert facts["emb:type"] == ("pixel" if resolution == "token" else "chip") and facts["emb:dimensions"] == 16
    assert facts["geomoe:encoder_sha256"] == encoder.fingerprint and facts["gsd"] == 120
    assert facts["emb:preprocessing"]["expression"]["unit"] == "collection2_dn"
    run = facts["emb:runtime_parameters"]
    assert (run["pool"], run["stride"], run["window"]) == ("tokens" if resolution == "token" else "mean", 4, 8)
    assert ("emb:chip_layout" in facts) == (resolution == "window")
    asset = item.assets["embeddings"]
    assert asset.get_absolute_href() == str(tmp_path / name) and asset.extra_fields["data_type"] == dtype
    assert len(asset.extra_fields["bands"]) == 16 and item.ext.proj.code == "EPSG:32633"
    if dtype == "int8":
        scales = [band["raster:scale"] for band in asset.extra_fields["bands"]]
        assert scales == facts["emb:quantization"]["scale"] == embeddings.read(tmp_path / name)["facts"]["vector_scale"]
    if name.endswith(".tif"):
        with rasterio.open(tmp_path / name) as file:
            assert item.ext.proj.shape == list(file.shape) and item.ext.proj.transform == list(file.transform)
            assert item.ext.proj.bbox == list(file.bounds)
            bounds = rasterio.warp.transform_bounds(file.crs, "EPSG:4326", *file.bounds)
        np.testing.assert_allclose(item.bbox, bounds, atol=1e-6)


def test_a_scene_without_a_time_has_none(encoder, tmp_path):
    scene = write_tif(tmp_path / "scene.tif", make_ground()[:20, :20])
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.npz"), scene)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "scene.tif"]


def test_a_scene_across_180_degrees(encoder, tmp_path):
    """180 degrees is at x = 348,083 and y = 6,989,134 of UTM zone 1."""
    image = np.full((20, 40, 7), 9000, np.uint16)
    scene = write_tif(tmp_path / "s.tif", image, crs="EPSG:32601", origin=(347_500.0, 6_989_400.0))
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.tif"), scene, time="2020-05-18")
    item = valid_item(tmp_path / "a.tif.stac.json")
    west, south, east, north = item.bbox
    assert item.geometry["type"] == "MultiPolygon" and 179.9 < west < 180 and -180 < east < -179.9
    assert 62.9 < south < north < 63.1

"""The STAC item beside the embeddings of a scene: valid, and true."""

import json
import re

import numpy as np
import pyarrow.parquet
import pyproj
import pystac
import pytest
import rasterio
import rasterio.warp
from embedding_tools import ORIGIN, make_ground
from geotiffs import write_tif
from pystac import validation

from geomoe import embeddings

_NUMBER, _TEXT = (int, float), (str, type(None))
# Of the published schemas of projection 2.0.0, raster 2.0.0 and processing 1.2.0, and of the proposed embedding extension: the
# fields that exist (proj:epsg does no longer), and what a value must be.
FIELDS = {
    "proj:code": lambda v: v is None or re.fullmatch(r"[A-Z0-9_]+:\w+", v),
    "proj:wkt2": lambda v: isinstance(v, _TEXT),
    "proj:bbox": lambda v: len(v) == 4 and v[0] < v[2] and v[1] < v[3] and numbers(v),
    "proj:shape": lambda v: len(v) == 2 and all(isinstance(n, int) and n > 0 for n in v),
    "proj:transform": lambda v: len(v) in (6, 9) and numbers(v),
    "raster:sampling": lambda v: v in ("area", "point"),
    "raster:scale": lambda v: isinstance(v, _NUMBER),
    "processing:software": lambda v: all(isinstance(name, str) for pair in v.items() for name in pair),
    "emb:type": lambda v: v in ("pixel", "chip"),
    "emb:dimensions": lambda v: isinstance(v, int) and v > 0,
    "emb:temporal_resolution": lambda v: v in ("single_acquisition", "multi_temporal"),
    "emb:runtime_parameters": lambda v: isinstance(v, dict),
    "emb:preprocessing": lambda v: v.keys() >= {"format", "expression"} and isinstance(v["format"], str),
    "emb:chip_layout": lambda v: (
        v["layout_type"] == "regular_grid"
        and all(len(v[key]) == 2 and all(isinstance(n, int) for n in v[key]) for key in ("chip_size", "stride"))
    ),
    "emb:quantization": lambda v: (
        v.keys() <= {"method", "original_dtype", "quantized_dtype", "scale", "offset", "link"}
        and (v["method"], v["original_dtype"], v["quantized_dtype"]) == ("linear", "float32", "int8")
        and numbers(v["scale"])
        and numbers(v["offset"])
    ),
}
EXTENSIONS = {"proj": "projection/v2.0.0", "raster": "raster/v2.0.0", "processing": "processing/v1.2.0"}


def numbers(values):
    return isinstance(values, list) and all(isinstance(value, _NUMBER) and np.isfinite(value) for value in values)


def broken_rules(content):
    """What in an item is not as the schemas of extensions have it."""
    (asset,) = content["assets"].values()
    fields = [pair for part in (content["properties"], asset, *asset["bands"]) for pair in part.items() if ":" in pair[0]]
    fields = [(name, value) for name, value in fields if not name.startswith("geomoe:")]
    broken = [name for name, value in fields if name not in FIELDS or not FIELDS[name](value)]
    used = {name.partition(":")[0] for name, _ in fields}
    listed = [f"https://stac-extensions.github.io/{EXTENSIONS[prefix]}/schema.json" for prefix in EXTENSIONS if prefix in used]
    if sorted(listed) != sorted(
        content["stac_extensions"]
    ):  # each asks for a field of its own, and to be named where it has one
        broken.append("stac_extensions")
    facts = content["properties"]
    if not (facts.get("proj:code") or facts.get("proj:wkt2")) or not facts.keys() >= {"proj:transform", "proj:shape"}:
        broken.append("what GDAL needs of the projection")
    if not facts.keys() >= {"emb:type", "emb:dimensions"} or "data_type" not in asset:
        broken.append("what an embedding must say")
    return broken


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("item") / "LC08_L2SP_191028_20200518_20200820_02_T1.TIF"
    return write_tif(path, make_ground(), origin=ORIGIN)


def valid_item(path):
    """The item as pystac reads it, valid by STAC 1.1 and by the rules of its extensions (whose schemas lie on the network)."""
    content = json.loads(path.read_text())
    assert broken_rules(content) == []
    validation.validate_dict({**content, "stac_extensions": []})
    return pystac.Item.from_file(path)


@pytest.mark.parametrize(
    ("name", "resolution", "dtype"),
    [
        ("a.tif", "token", "int8"),
        ("a.tif", "window", "float16"),
        ("a.parquet", "window", "float32"),
        ("a.npz", "window", "int8"),
        ("a.zarr", "token", "float16"),
    ],
)
def test_what_an_item_says(encoder, scene_file, tmp_path, name, resolution, dtype):
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / name, dtype=dtype), scene_file, resolution=resolution)
    item = valid_item(tmp_path / f"{name}.stac.json")
    assert item.id == "a" and item.common_metadata.start_datetime.isoformat().startswith("2020-05-18")
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


def test_when_a_scene_was_taken(encoder, scene_file, tmp_path):
    """A name says the day alone: STAC's item spans it, and says no midnight that nobody measured."""
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "day.npz"), scene_file)
    day = valid_item(tmp_path / "day.npz.stac.json")
    span = (day.properties["start_datetime"], day.properties["end_datetime"])
    assert day.datetime is None and span == ("2020-05-18T00:00:00Z", "2020-05-18T23:59:59Z")
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "hour.npz"), scene_file, time="2020-05-18T10:07:00")
    assert valid_item(tmp_path / "hour.npz.stac.json").datetime.isoformat() == "2020-05-18T10:07:00+00:00"


def test_a_scene_across_180_degrees(encoder, tmp_path):
    """180 degrees is at x = 348,083 and y = 6,989,134 of UTM zone 1."""
    image = np.full((20, 40, 7), 9000, np.uint16)
    scene = write_tif(tmp_path / "s.tif", image, crs="EPSG:32601", origin=(347_500.0, 6_989_400.0))
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.tif"), scene, time="2020-05-18")
    item = valid_item(tmp_path / "a.tif.stac.json")
    west, south, east, north = item.bbox
    assert item.geometry["type"] == "MultiPolygon" and 179.9 < west < 180 and -180 < east < -179.9
    assert 62.9 < south < north < 63.1


def test_a_crs_without_a_code_is_given_in_full(encoder, tmp_path):
    crs = "+proj=laea +lat_0=47 +lon_0=11 +datum=WGS84 +units=m"
    scene = write_tif(tmp_path / "s.tif", make_ground()[:20, :20], crs=crs, origin=(0.0, 0.0))
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.parquet"), scene, time="2020-05-18")
    facts = valid_item(tmp_path / "a.parquet.stac.json").properties
    assert facts["proj:code"] is None and pyproj.CRS.from_wkt(facts["proj:wkt2"]).equals(pyproj.CRS(crs).to_2d(), True)


def test_the_size_of_a_pixel_on_a_rotated_grid(encoder, tmp_path):
    """A quarter turn puts a pixel's size where a transform has its rotation: windows 4 pixels of 30 m apart are 120 m apart."""
    scene = write_tif(tmp_path / "s.tif", make_ground()[:20, :20])
    with rasterio.open(scene, "r+") as file:
        file.transform = rasterio.Affine(0, -30, 500_000, -30, 0, 5_300_000)
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.npz"), scene, time="2020-05-18", stride=4)
    assert valid_item(tmp_path / "a.npz.stac.json").properties["gsd"] == pytest.approx(120)


def test_the_size_of_a_pixel_is_in_metres(encoder, tmp_path):
    """EPSG:2263 has US survey feet."""
    scene = write_tif(tmp_path / "s.tif", make_ground()[:20, :20], crs="EPSG:2263", origin=(984_000.0, 200_000.0))
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "m.npz"), scene, time="2020-05-18", stride=4)
    assert valid_item(tmp_path / "m.npz.stac.json").properties["gsd"] == pytest.approx(4 * 30 * 1200 / 3937)


@pytest.mark.parametrize("stride", [4, 8])
def test_the_item_of_a_table_spans_its_windows(encoder, tmp_path, stride):
    scene = write_tif(tmp_path / "s.tif", make_ground()[:20, :28])
    embeddings.embed_scene(
        encoder, embeddings.Sink(tmp_path / "a.parquet"), scene, time="2020-05-18", stride=stride, min_valid=0
    )
    shapes = pyarrow.parquet.read_table(tmp_path / "a.parquet", columns=["bbox"])["bbox"].to_pylist()
    bounds = [min(s["xmin"] for s in shapes), min(s["ymin"] for s in shapes)]
    bounds += [max(s["xmax"] for s in shapes), max(s["ymax"] for s in shapes)]
    np.testing.assert_allclose(valid_item(tmp_path / "a.parquet.stac.json").bbox, bounds, atol=1e-6)

"""Outlines on the globe: cut at 180 degrees, closed over a pole."""

import json
import struct

import numpy as np
import pyproj
import pytest
from geotiffs import write_tif

from geomoe import embeddings
from geomoe.embeddings import footprints
from geomoe.embeddings.files import write_parquet


def box(west, south, east, north):
    return np.array([[west, south], [east, south], [east, north], [west, north], [west, south]], float)


def area(ring):
    """Twice the signed area, in square degrees: positive counterclockwise."""
    x, y = ring.T
    return np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])


def test_an_ordinary_ring_becomes_counterclockwise():
    (ring,) = footprints.polygons(box(10, 45, 11, 46)[::-1])
    assert area(ring) == pytest.approx(2) and footprints.bounds([ring]).tolist() == [10, 45, 11, 46]
    (moved,) = footprints.polygons(box(190, 45, 191, 46))  # of a grid that counts from 0 to 360
    assert footprints.bounds([moved]).tolist() == [-170, 45, -169, 46]


@pytest.mark.parametrize("east", [-179.5, 180.5])
def test_a_ring_across_180_degrees_is_cut_in_two(east):
    parts = footprints.polygons(box(179, -18, east, -17))
    assert [sorted(set(part[:, 0])) for part in parts] == [[179, 180], [-180, -179.5]]
    assert [area(part) for part in parts] == pytest.approx([2, 1]) and all((part[0] == part[-1]).all() for part in parts)
    assert footprints.bounds(parts).tolist() == [179, -18, -179.5, -17]  # RFC 7946: west is greater than east
    wkb = footprints.to_wkb(parts)
    assert struct.unpack("<BII", wkb[:9]) == (1, 6, 2)
    assert footprints.to_geojson(parts)["type"] == "MultiPolygon"


def test_a_slanted_ring_is_cut_where_it_crosses():
    ring = np.array([[179, 0], [-179, 2], [-179, 3], [179, 1], [179, 0]], float)
    east, west = footprints.polygons(ring)
    assert sorted(east[east[:, 0] == 180][:, 1]) == pytest.approx(sorted({1.0, 2.0}))
    assert sorted(set(west[west[:, 0] == -180][:, 1])) == pytest.approx([1, 2])
    assert area(east) + area(west) == pytest.approx(2 * 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_ring_around_a_pole_reaches_it(sign):
    (ring,) = footprints.polygons(
        np.array([[45, 89 * sign], [135, 89 * sign], [-135, 89 * sign], [-45, 89 * sign], [45, 89 * sign]])
    )
    assert area(ring) == pytest.approx(2 * 360) and np.abs(ring[:, 1]).max() == 90
    assert footprints.bounds([ring]).tolist() == ([-180, 89, 180, 90] if sign > 0 else [-180, -90, 180, -89])


def test_a_corner_at_the_pole():
    (ring,) = footprints.polygons(np.array([[0, 90], [30, 89], [75, 88.6], [120, 89], [0, 90]], float))
    assert footprints.bounds([ring]).tolist() == [30, 88.6, 120, 90] and area(ring) > 0


def test_bounds_of_many():
    join = lambda *rows: footprints.join_bounds(np.array(rows, float)).tolist()
    assert join([10, 0, 11, 1], [-20, 2, -19, 3]) == [-20, 0, 11, 3]
    assert join([178, 0, 179, 1], [179.5, 0, -179.5, 1], [-179, 2, -178, 3]) == [178, 0, -178, 3]
    assert join([-180, 80, 180, 90], [179.5, 79, -179.5, 80]) == [-180, 79, 180, 90]


@pytest.mark.parametrize(("crs", "origin"), [("EPSG:32601", (207_000.0, 7_000_000.0)), ("EPSG:3413", (-500.0, 500.0))])
def test_scenes_there_are_read_back_by_others(encoder, tmp_path, crs, origin):
    """A scene across 180 degrees (70 km west of UTM zone 1), and one over the North Pole."""
    geopandas, shapely = pytest.importorskip("geopandas"), pytest.importorskip("shapely")
    duckdb = pytest.importorskip("duckdb")
    image = np.random.default_rng(0).integers(8000, 12000, (40, 40, 7)).astype(np.uint16)
    if crs == "EPSG:32601":
        x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(180.0, 63.0)
        origin = (round(x) - 610.0, round(y) + 600.0)
    scene = write_tif(tmp_path / "scene.tif", image, crs=crs, origin=origin)
    output = tmp_path / "out.parquet"
    embeddings.embed_scene(encoder, embeddings.Sink(output), scene, stride=8, time="2020-05-18")
    frame = geopandas.read_parquet(output)
    assert frame.geometry.is_valid.all() and frame.crs == "OGC:CRS84" and len(frame) == 25
    centres = shapely.points(frame.longitude.to_numpy(), frame.latitude.to_numpy())
    assert (shapely.distance(frame.geometry.to_numpy(), centres) < 1e-9).all()
    share = frame.geometry.to_crs(crs).area if crs == "EPSG:32601" else None
    geometry = json.loads(embeddings_metadata(output))["columns"]["geometry"]
    if crs == "EPSG:32601":
        assert geometry["geometry_types"] == ["MultiPolygon", "Polygon"] and set(frame.geom_type) == {"MultiPolygon", "Polygon"}
        np.testing.assert_allclose(share, 240 * 240, rtol=1e-3)  # together they are as large as a window
        west, south, east, north = geometry["bbox"]
        assert 179.9 < west < 180 and -180 < east < -179.9 and 62.9 < south < north < 63.1
    else:
        assert (frame.geometry.bounds.maxy == 90).sum() == 1 and geometry["bbox"][0] == -180 and geometry["bbox"][3] == 90
    rows = duckdb.sql(f"select bbox.xmin, bbox.ymin, bbox.xmax, bbox.ymax, len(vector) from '{output}'").fetchall()
    assert len(rows) == 25 and {row[4] for row in rows} == {16}
    crossing = [row for row in rows if row[0] > row[2]]
    assert len(crossing) == (frame.geom_type == "MultiPolygon").sum()


def embeddings_metadata(path):
    import pyarrow.parquet as pq

    return pq.read_schema(path).metadata[b"geo"]


def test_the_file_metadata_covers_all_parts(tmp_path):
    rows = lambda name, ring: {
        "id": np.array([name]),
        "latitude": np.zeros(1),
        "longitude": np.zeros(1),
        "time": np.array(["2020-05-18"], "datetime64[s]"),
        "valid_fraction": np.ones(1, np.float32),
        "embedded": np.ones(1, bool),
        "vector": np.ones((1, 3), np.float32),
        "footprint": ring[None],
    }
    parts = [rows("a", box(179.5, 0, -179.5, 1)), rows("b", box(-178, 1, -177, 2)), rows("c", box(178, 3, 179, 4))]
    write_parquet(str(tmp_path / "x.parquet"), parts, {}, footprints=True)
    geo = json.loads(embeddings_metadata(tmp_path / "x.parquet"))
    geometry = geo["columns"][geo["primary_column"]]
    assert geometry["bbox"] == [178, 0, -177, 4] and geometry["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert geometry["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]


def test_bounds_that_meet_at_0_are_joined_the_short_way():
    both = np.array([[170.0, 0, -170, 1], [-10, 0, 0, 1]])
    np.testing.assert_array_equal(footprints.join_bounds(both), [170, 0, 0, 1])

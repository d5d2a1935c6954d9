"""Four users, from what they have to what they want, by the commands that the docs give them."""

import json

import numpy as np
import pytest
import rasterio
from geotiffs import pixels, write_scene, write_tif
from test_data_stac import STEM, band_assets, item
from web import serve

import geomoe
from geomoe.cli import embed, search

pytestmark = pytest.mark.long


def test_a_stac_item_becomes_a_map_of_120_m(run_dir, tmp_path):
    pystac = pytest.importorskip("pystac")
    image = pixels(size=(90, 100))
    (tmp_path / "web").mkdir()
    content = item(STEM, band_assets(tmp_path / "web", image))
    (tmp_path / "web" / "item.json").write_text(json.dumps(content))
    output = tmp_path / "map.tif"
    with serve(tmp_path / "web") as served:
        source = ["--stac", f"{served.address}/item.json"]
        embed.main(["--checkpoint", str(run_dir), *source, "--resolution", "token", "--output", str(output)])
    with rasterio.open(output) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.crs.to_epsg() == 32633
        patch = geomoe.load(run_dir).config.patch_size
        assert file.res == (30.0 * patch, 30.0 * patch) and np.isfinite(file.read(1)).mean() > 0.9
    described = pystac.Item.from_file(f"{output}.stac.json")
    assert str(described.datetime)[:19] == "2021-06-13 10:02:31" and described.properties["emb:dimensions"] > 0


def test_a_landsat_7_folder_with_gaps_becomes_a_table(run_dir, tmp_path):
    geopandas = pytest.importorskip("geopandas")
    image = pixels(6, size=(80, 90))
    image[np.arange(80) % 16 < 4] = 0  # as after 2003
    mtl = (
        'SPACECRAFT_ID = "LANDSAT_7"\nPROCESSING_LEVEL = "L2SP"\nDATE_ACQUIRED = 2005-06-13\nSCENE_CENTER_TIME = "10:02:31Z"\n'
    )
    stem = "LE07_L2SP_193026_20050613_20200914_02_T1"
    folder = write_scene(tmp_path / "scene", stem, image, prefix="SR_B", numbers=(1, 2, 3, 4, 5, 7), mtl=mtl)
    embed.main(["--checkpoint", str(run_dir), "--scene", str(folder), "--output", str(tmp_path / "t.parquet")])
    table = geopandas.read_parquet(tmp_path / "t.parquet")
    assert table.crs.to_epsg() in (4326, None) or "WGS 84" in table.crs.name
    assert table.vector.notna().all() and (table.valid_fraction < 0.9).all()
    assert str(table.time.iloc[0]) == "2005-06-13 10:02:31"
    assert table.geometry.is_valid.all() and table.geometry.iloc[0].contains(
        geopandas.points_from_xy(table.longitude[:1], table.latitude[:1])[0]
    )


def test_an_hls_tile_is_searched(run_dir, tmp_path):
    name = "HLS.L30.T33UUP.2021164T100231.v2.0"
    image = np.rint(pixels(size=(90, 90)) * 0.275 - 2000).astype(np.int16)  # reflectance times 10,000
    image[40:60, 40:60] = image[:20, :20]  # the same place twice
    for i in range(7):
        write_tif(tmp_path / "tile" / f"{name}.B0{i + 1}.tif", image[..., i : i + 1], nodata=-9999)
    size = geomoe.load(run_dir).config.img_size
    source = ["--scene", str(tmp_path / "tile"), "--stride", str(size)]
    embed.main(["--checkpoint", str(run_dir), *source, "--output", str(tmp_path / "tile.parquet")])
    from geomoe import embeddings

    table = embeddings.read(tmp_path / "tile.parquet")
    like = f"{table['latitude'][0]},{table['longitude'][0]}"
    hits = tmp_path / "hits.geojson"
    search.main(["--embeddings", str(tmp_path / "tile.parquet"), "--like", like, "-k", "5", "--output", str(hits)])
    found = json.loads(hits.read_text())["features"]
    assert [hit["properties"]["rank"] for hit in found] == list(range(len(found))) and len(found) > 3
    assert found[0]["properties"]["id"] == table["id"][0]


def test_three_dates_of_one_place(run_dir):
    xarray = pytest.importorskip("xarray")
    stack = np.stack([pixels(seed=i, size=(60, 60)) for i in range(3)]).transpose(0, 3, 1, 2)
    coordinates = {
        "time": np.array(["2021-06-13", "2021-07-13", "2021-08-13"], "datetime64[ns]"),
        "band": [f"SR_B{i}" for i in range(1, 8)],
        "y": 5_300_000 - 30 * (np.arange(60) + 0.5),
        "x": 500_000 + 30 * (np.arange(60) + 0.5),
    }
    data = xarray.DataArray(stack, coordinates, ("time", "band", "y", "x"))
    each = geomoe.load(run_dir).embed_scene(data)
    mean = each.mean("time")
    assert each.dims[0] == "time" and each.sizes["time"] == 3 and "time" not in mean.dims
    np.testing.assert_allclose(mean.values, each.values.mean(axis=0), atol=1e-6)

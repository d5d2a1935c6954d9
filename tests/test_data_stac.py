"""Scenes by catalogue: items of Landsat and HLS as providers write them, and what they must not be."""

import json

import numpy as np
import pytest
from geotiffs import pixels, write_tif
from web import serve

from geomoe import landsat
from geomoe.data.preprocess import InputSpec
from geomoe.data.product_files import SceneError
from geomoe.data.scene import SceneReader, open_scene
from geomoe.data.stac import read_items

pytest.importorskip("pystac", reason="needs pystac")
NAMES = ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")


def item(name, assets, **properties):
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {"datetime": "2021-06-13T10:02:31.5Z", "platform": "landsat-8", "view:sun_elevation": 61.0, **properties},
        "links": [],
        "assets": assets,
    }


def band_assets(folder, image, names=NAMES, scale=0.0000275, offset=-0.2, **form):
    """One file a band below a folder, and the assets that name them as the `eo` and `raster` extensions do."""
    assets = {}
    for i, name in enumerate(names):
        write_tif(folder / f"band_{i}.tif", image[..., i : i + 1])
        fields = {"eo:bands": [{"name": f"OLI_B{i + 1}", "common_name": name}]}
        if scale:
            fields["raster:bands"] = [{"scale": scale, "offset": offset, "nodata": 0}]
        assets[name] = {"href": f"./band_{i}.tif", "type": "image/tiff", **fields}
    return assets


STEM = "LC08_L2SP_193026_20210613_20210622_02_T1"


def read(info):
    with SceneReader(info, landsat.BANDS, str(info.unit)) as reader:
        return reader.read(3, 4, 5, 6)


def test_an_item_of_surface_reflectance(tmp_path):
    image = pixels()
    assets = band_assets(tmp_path, image)
    write_tif(tmp_path / "qa.tif", np.full((41, 43, 1), 8, np.uint16))
    assets["qa_pixel"] = {"href": "./qa.tif"}
    assets["lwir11"] = {"href": "./thermal.tif", "eo:bands": [{"name": "TIRS_B10", "common_name": "lwir11"}]}
    assets["thumbnail"] = {"href": "./small.jpg"}
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, assets)))
    (found,) = read_items(tmp_path / "item.json")
    info = open_scene(found)
    assert (info.name, info.sensor, info.unit, str(info.time)) == (STEM, "landsat8", "collection2_dn", "2021-06-13T10:02:31")
    assert info.qa == (str(tmp_path / "qa.tif"), "QA_PIXEL", 1) and sorted(info.files) == sorted(landsat.BANDS)
    np.testing.assert_array_equal(read(info), image[3:8, 4:10])
    with pytest.raises(SceneError, match="unit='level1_dn' was given, but"):
        info.spec(InputSpec(unit="level1_dn"))


def test_bands_in_the_form_of_stac_1_1_and_hls(tmp_path):
    """Scale 0.0001 is HLS; bands by name where no colour is told."""
    image = pixels(dtype=np.int16) // 4
    assets = {}
    for i in range(7):
        write_tif(tmp_path / f"B0{i + 1}.tif", image[..., i : i + 1], nodata=-9999)
        assets[f"B0{i + 1}"] = {"href": f"B0{i + 1}.tif", "bands": [{"name": f"B0{i + 1}", "raster:scale": 0.0001}]}
    name = "HLS.L30.T33UUP.2021164T100231.v2.0"
    (tmp_path / "item.json").write_text(json.dumps(item(name, {**assets, "B10": {"href": "B10.tif"}}, platform="LANDSAT-8")))
    info = open_scene(read_items(tmp_path / "item.json")[0])
    assert info.unit == "hls" and len(info.files) == 7
    np.testing.assert_array_equal(read(info), image[3:8, 4:10])


def test_bands_go_by_their_common_names_before_all_else(tmp_path):
    """Keys and names are a provider's own: here both are other bands' names."""
    image = pixels()
    assets = {}
    for i, name in enumerate(NAMES):
        write_tif(tmp_path / f"{i}.tif", image[..., i : i + 1])
        assets[f"B{7 - i}"] = {"href": f"{i}.tif", "eo:bands": [{"name": f"B{(i + 1) % 7 + 1}", "common_name": name}]}
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, assets)))
    np.testing.assert_array_equal(read(open_scene(read_items(tmp_path / "item.json")[0])), image[3:8, 4:10])


def test_level_1_takes_the_sun_of_the_item(tmp_path):
    assets = band_assets(tmp_path, pixels(), scale=None)
    (tmp_path / "item.json").write_text(json.dumps(item(STEM.replace("L2SP", "L1TP"), assets)))
    spec = open_scene(read_items(tmp_path / "item.json")[0]).spec(InputSpec())
    assert (spec.unit, spec.sun_elevation) == ("level1_dn", 61.0)


def test_sensors_without_the_coastal_band(tmp_path):
    image = pixels(6)
    assets = band_assets(tmp_path, image, NAMES[1:])
    content = item("LE07_L2SP_193026_20210613_20210914_02_T1", assets, platform="landsat-7")
    (tmp_path / "item.json").write_text(json.dumps(content))
    info = open_scene(read_items(tmp_path / "item.json")[0])
    assert info.sensor == "landsat7" and sorted(info.files) == sorted(landsat.BANDS[1:])
    with SceneReader(info, landsat.BANDS[1:]) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 41, 43), image)


def test_a_search_result_is_a_list_of_scenes(tmp_path):
    image = pixels()
    assets = band_assets(tmp_path, image)
    features = [
        item(f"LC08_L2SP_193026_202106{day}_20210722_02_T1", assets, datetime=f"2021-06-{day}T10:02:31Z") for day in (13, 29)
    ]
    (tmp_path / "search.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert [open_scene(found).name for found in read_items(tmp_path / "search.json")] == [f["id"] for f in features]


def test_an_item_on_the_network(tmp_path):
    image = pixels()
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, band_assets(tmp_path, image))))
    with serve(tmp_path) as served:
        info = open_scene(read_items(f"{served.address}/item.json")[0])
        assert all(path.startswith(served.address) for path, _ in info.files.values())
        np.testing.assert_array_equal(read(info), image[3:8, 4:10])
        with pytest.raises(SceneError, match="gone.json is no STAC item: HTTPError"):
            read_items(f"{served.address}/gone.json")


def test_what_is_no_item_of_landsat_is_named(tmp_path):
    write = lambda content: (tmp_path / "bad.json").write_text(json.dumps(content))
    assets = band_assets(tmp_path, pixels())
    two = {**assets, "red": {**assets["red"], "raster:bands": [{"scale": 0.0001, "offset": 0}]}}
    for content, message in (
        ([1], "bad.json is no STAC item"),
        ({"type": "Feature"}, "bad.json is no STAC item"),
        ({"type": "FeatureCollection", "features": []}, "holds no item"),
        (item("S2A_x", assets, platform="sentinel-2a"), "'sentinel-2a' is none of Landsat"),
        (item("S2A_x", assets, platform="", instruments=["msi"]), "'msi' is none of Landsat"),
        (item("HLS.S30.T32TPT.2021164T100231.v2.0", assets, platform=""), "HLS S30 is Sentinel-2's"),
        (item("tile", assets | {"B8A": assets["red"] | {"eo:bands": [{"name": "B8A"}]}}, platform=""), "B8A is Sentinel-2's"),
        (item(STEM, assets, platform="landsat-7"), "platform 'landsat-7', but by its id it is landsat8's"),
        (
            item(STEM, assets, datetime="2019-01-01T10:02:31Z"),
            "its datetime is 2019-01-01T10:02:31, but by its id it is of 2021-06-13",
        ),
        (item(STEM, assets, **{"view:sun_elevation": "n/a"}), "view:sun_elevation = 'n/a' is no number"),
        (item(STEM, {"thumbnail": {"href": "a.jpg"}}), r"none of its assets \(thumbnail\) is a band of landsat8"),
        (item(STEM, two), "its assets hold collection2_dn and hls"),
    ):
        write(content)
        with pytest.raises(SceneError, match=message):
            read_items(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "key, told", [("visual", {"roles": ["visual"]}), ("preview", {}), ("true_colour", {"type": "image/png"})]
)
def test_a_picture_of_the_scene_is_none_of_its_bands(tmp_path, key, told):
    """It stands first and names the same colours as the numbers that were measured."""
    image = pixels()
    colours = [{"name": name, "common_name": name} for name in ("red", "green", "blue")]
    write_tif(tmp_path / "picture.tif", pixels(3, seed=9, dtype=np.uint8))
    assets = {key: {"href": "./picture.tif", "eo:bands": colours, **told}, **band_assets(tmp_path, image)}
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, assets)))
    np.testing.assert_array_equal(read(open_scene(read_items(tmp_path / "item.json")[0])), image[3:8, 4:10])


def test_a_platform_of_landsat_goes_before_what_else_takes_part(tmp_path):
    more = {"instruments": ["OLI", "MSI"], "view:sun_elevation": "61.5"}
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, band_assets(tmp_path, pixels()), **more)))
    assert open_scene(read_items(tmp_path / "item.json")[0]).sun_elevation == 61.5


def test_a_folder_may_have_any_name_and_hls_needs_no_scale(tmp_path):
    folder = tmp_path / "site #1? 100%"
    image = (pixels() // 4).astype(np.int16)
    assets = band_assets(folder, image, scale=None)
    (folder / "item.json").write_text(json.dumps(item("HLS.L30.T32TPT.2021164T100231.v2.0", assets)))
    info = open_scene(read_items(folder / "item.json")[0])
    assert info.unit == "hls"
    np.testing.assert_array_equal(read(info), image[3:8, 4:10])


def test_one_asset_of_several_bands(tmp_path):
    """Each band by its place in the file; what the asset says once of all bands counts for each."""
    image = pixels()
    write_tif(tmp_path / "all.tif", image)
    bands = [{"name": f"OLI_B{i + 1}", "common_name": name} for i, name in enumerate(NAMES)]
    asset = {"href": "all.tif", "eo:bands": bands, "raster:bands": [{"scale": 0.0000275, "offset": -0.2}] * 7}
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, {"sr": asset})))
    np.testing.assert_array_equal(read(open_scene(read_items(tmp_path / "item.json")[0])), image[3:8, 4:10])
    bands = [{"name": f"B{i + 1}", "eo:common_name": name} for i, name in enumerate(NAMES)]
    asset = {"href": "all.tif", "raster:scale": 0.0000275, "raster:offset": -0.2, "bands": bands}
    (tmp_path / "item.json").write_text(json.dumps(item("anything", {"sr": asset})))
    assert read_items(tmp_path / "item.json")[0].unit == "collection2_dn"


def test_a_span_of_time_is_its_start(tmp_path):
    span = dict(datetime=None, start_datetime="2021-06-13T10:02:31Z", end_datetime="2021-06-13T10:02:59Z")
    (tmp_path / "item.json").write_text(json.dumps(item("anything", band_assets(tmp_path, pixels()), **span)))
    assert str(read_items(tmp_path / "item.json")[0].time) == "2021-06-13T10:02:31"


def test_a_folder_whose_name_looks_quoted(tmp_path):
    folder = tmp_path / "100%25"
    assets = band_assets(folder, pixels())
    (folder / "item.json").write_text(json.dumps(item("anything", assets)))
    assert open_scene(read_items(folder / "item.json")[0]).height == 41


@pytest.mark.parametrize("scale", [None, "0.0000275"])
def test_a_scale_may_be_null_or_text(tmp_path, scale):
    assets = band_assets(tmp_path, pixels())
    assets["red"]["raster:bands"] = [{"scale": scale, "offset": None if scale is None else "-0.2"}]
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, assets)))
    assert read_items(tmp_path / "item.json")[0].unit == "collection2_dn"
    assets["red"]["raster:bands"] = [{"scale": "2.75e-5 per count"}]
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, assets)))
    with pytest.raises(SceneError, match=f"{STEM}: asset red: scale = '2.75e-5 per count', .* are no numbers"):
        read_items(tmp_path / "item.json")


def test_the_quality_of_the_surface_temperature_is_none_of_pixels(tmp_path):
    """In items of Collection 2 `qa` is ST_QA, an uncertainty in hundredths of a kelvin."""
    assets = band_assets(tmp_path, pixels())
    write_tif(tmp_path / "st_qa.tif", np.full((41, 43, 1), 8 + 2, np.uint16))
    temperature = {"href": "./st_qa.tif", "title": "Surface Temperature Quality Assessment Band"}
    for quality in ({}, {"qa_pixel": {"href": "./st_qa.tif"}}):
        (tmp_path / "item.json").write_text(
            json.dumps(item(STEM, {**assets, **quality, "qa": temperature, "fmask": temperature}))
        )
        (found,) = read_items(tmp_path / "item.json")
        assert found.qa.kind == ("QA_PIXEL" if quality else "FMASK")
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, {**assets, "qa": temperature})))
    assert read_items(tmp_path / "item.json")[0].qa is None


@pytest.mark.parametrize(
    ("end", "time"),
    [("2021-06-13T00:00:27Z", "2021-06-13T00:00:00"), ("2021-06-13T23:59:59Z", "2021-06-13"), ("2021-12-31T23:59:59Z", "NaT")],
)
def test_the_time_of_a_span(tmp_path, end, time):
    """Of a scan of seconds, of a day, and of a composite of months, which is of no week."""
    span = {"datetime": None, "start_datetime": "2021-06-13T00:00:00Z", "end_datetime": end}
    (tmp_path / "item.json").write_text(json.dumps(item("composite", band_assets(tmp_path, pixels()), **span)))
    assert str(open_scene(read_items(tmp_path / "item.json")[0]).time) == time


def test_what_an_item_leaves_empty_and_what_contradicts_it(tmp_path):
    def found(name, assets, **properties):
        (tmp_path / "item.json").write_text(json.dumps(item(name, assets, **properties)))
        return open_scene(read_items(tmp_path / "item.json")[0])

    hls = band_assets(tmp_path, pixels(), scale=0.0001, offset=0.0)
    for asset in hls.values():
        asset["href"] = (tmp_path / asset["href"]).as_uri()
    assert found("HLS.L30.T33UUP.2021164T100231.v2.0", hls, platform=None).unit == "hls"
    with pytest.raises(SceneError, match=f"{STEM}: asset coastal is level1_dn by its scale, but by the id collection2_dn"):
        found(STEM, band_assets(tmp_path, pixels(), names=NAMES[:1], scale=0.00002, offset=-0.1))
    with pytest.raises(SceneError, match="asset coastal: scale 0.0001 and offset -0.1 are of no unit"):
        found("mine", band_assets(tmp_path, pixels(), scale=0.0001, offset=-0.1))


@pytest.mark.parametrize("form", ["eo:bands", "bands"])
def test_a_quality_band_among_the_bands_of_one_asset(tmp_path, form):
    image = pixels(8)
    image[..., 3] = 8  # bit 3 of QA_PIXEL is cloud
    write_tif(tmp_path / "all.tif", image)
    bands = [{"name": band} for band in (*landsat.BANDS[:3], "QA_PIXEL", *landsat.BANDS[3:])]
    (tmp_path / "item.json").write_text(json.dumps(item(STEM, {"data": {"href": "all.tif", form: bands}})))
    info = open_scene(read_items(tmp_path / "item.json")[0])
    assert info.qa == (str(tmp_path / "all.tif"), "QA_PIXEL", 4)
    assert {band: index for band, (_, index) in info.files.items()} == dict(zip(landsat.BANDS, (1, 2, 3, 5, 6, 7, 8)))
    with SceneReader(info, landsat.BANDS) as reader:
        assert reader.clouds(0, 0, 41, 43).all()


def test_one_entry_of_raster_bands_holds_for_all(tmp_path):
    write_tif(tmp_path / "all.tif", pixels())
    colours = [{"name": name, "common_name": name} for name in NAMES]
    scaled, other = {"scale": 0.0001, "offset": 0.0}, {"scale": 0.0000275, "offset": -0.2}

    def unit(*numbers):
        assets = {"data": {"href": "./all.tif", "eo:bands": colours, "raster:bands": list(numbers)}}
        (tmp_path / "item.json").write_text(json.dumps(item("mosaic", assets)))
        return read_items(tmp_path / "item.json")[0].unit

    for count in (1, 2, 7, 8):
        assert unit(*[scaled] * count) == "hls"
    with pytest.raises(SceneError, match="mosaic: asset data has 2 raster:bands that differ, for 7 eo:bands"):
        unit(scaled, other)

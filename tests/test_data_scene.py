"""Scenes: their files, what they say of themselves, and reading them by rectangles."""

import json
import string
import warnings

import numpy as np
import pyproj
import pytest
import rasterio
from geotiffs import UTM33, pixels, write_scene, write_tif
from hypothesis import given, settings, strategies as st

from geomoe import landsat, metadata
from geomoe.data import preprocess
from geomoe.data.geotiff import read_patch
from geomoe.data.preprocess import InputSpec, UnitWarning
from geomoe.data.product_files import SceneFiles
from geomoe.data.scene import SceneError, SceneReader, open_scene

STEM = "LC08_L1TP_191028_20200518_20200820_02_T1"
MTL = 'PROCESSING_LEVEL = "L1TP"\nDATE_ACQUIRED = 2020-05-18\nSCENE_CENTER_TIME = "09:41:02.1Z"\nSUN_ELEVATION = 51.5\n'


def test_a_folder_with_one_file_a_band(tmp_path):
    image, qa = pixels(), np.zeros((41, 43), int)
    qa[5:9, 7:12] = 1 << 2  # cirrus
    info = open_scene(write_scene(tmp_path, STEM, image, qa=qa, mtl=MTL))
    assert (info.name, info.height, info.width, info.sensor) == (STEM, 41, 43, "landsat8")
    assert (info.unit, info.sun_elevation, str(info.time)) == ("level1_dn", 51.5, "2020-05-18T09:41:02")
    with SceneReader(info, ("SR_B5", "SR_B4")) as reader:
        np.testing.assert_array_equal(reader.read(3, 4, 5, 6), image[3:8, 4:10, [4, 3]])
        np.testing.assert_array_equal(reader.clouds(4, 6, 6, 7), (qa != 0)[4:10, 6:13])
    assert info.spec(InputSpec()) == InputSpec(unit="level1_dn", sensor="landsat8", sun_elevation=51.5)
    with pytest.raises(SceneError, match="unit='collection2_dn' was given, but .* it is 'level1_dn'"):
        info.spec(InputSpec(unit="collection2_dn"))


def test_beyond_the_edges_and_where_the_file_says_so_there_are_no_data(tmp_path):
    image = pixels()
    image[:4, :4] = 65535
    info = open_scene(write_tif(tmp_path / "s.tif", image, nodata=65535))
    with SceneReader(info, landsat.BANDS) as reader:
        out = reader.read(-2, -3, 46, 50)
        assert reader.clouds(0, 0, 4, 4) is None
    expected = np.zeros((46, 50, 7), np.uint16)
    expected[2:43, 3:46] = np.where(image == 65535, 0, image)
    np.testing.assert_array_equal(out, expected)
    floats = pixels(dtype=np.float32)
    with SceneReader(open_scene(write_tif(tmp_path / "f.tif", floats)), landsat.BANDS) as reader:
        out = reader.read(40, 42, 2, 2)
    np.testing.assert_array_equal(out[0, 0], floats[40, 42])
    assert np.isnan(out[1]).all() and np.isnan(out[0, 1]).all()


def test_locations_are_latitudes_and_longitudes_of_pixel_positions(tmp_path):
    with SceneReader(open_scene(write_tif(tmp_path / "s.tif", pixels())), landsat.BANDS) as reader:
        latitude, longitude = reader.locations(np.array([0.5, 10]), np.array([0.5, 20]))
    to_wgs84 = pyproj.Transformer.from_crs(UTM33, "EPSG:4326", always_xy=True)
    expected = [to_wgs84.transform(500015, 5299985), to_wgs84.transform(500600, 5299700)]
    np.testing.assert_allclose(np.stack([longitude, latitude], axis=1), expected)


def test_bands_by_description_by_name_and_by_number(tmp_path):
    image = pixels()
    backwards = open_scene(write_tif(tmp_path / "b.tif", image[..., ::-1], descriptions=landsat.BANDS[::-1]))
    with SceneReader(backwards, landsat.BANDS) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 41, 43), image)
    three = write_tif(tmp_path / "three.tif", image[..., :3])
    with pytest.raises(SceneError, match="three.tif: has 3 bands and does not say which"):
        open_scene(three)
    with pytest.raises(SceneError, match="three.tif: has 3 bands, but 2 names"):
        open_scene(three, bands=("red", "nir"))
    with pytest.raises(SceneError, match="named twice"):
        open_scene(three, bands=("red", "nir", "B4"))
    assert open_scene(three, bands=("red", "nir", "blue")).files["SR_B5"] == (str(three), 2)
    stem = "LE07_L2SP_190025_20020518_20200916_02_T1"
    info = open_scene(write_scene(tmp_path / "seven", stem, image, prefix="SR_B", numbers=(1, 2, 3, 4, 5, 6, 7)))
    assert (info.sensor, info.unit, sorted(info.files)) == ("landsat7", "collection2_dn", sorted(landsat.BANDS[1:]))
    assert info.files["SR_B5"][0].endswith("SR_B4.TIF")
    with pytest.raises(SceneError, match="unit='level1_dn' was given, but"):
        info.spec(InputSpec(unit="level1_dn", level1_factors={}))


def test_a_scene_whose_unit_nobody_says(tmp_path):
    """Taken for Collection 2's where its type allows it, and that is said; a type that cannot be that is refused."""
    info = open_scene(write_tif(tmp_path / "plain.tif", pixels()))
    with pytest.warns(UnitWarning, match="neither plain nor you say a unit, so its numbers are taken for collection2_dn"):
        assert info.spec(InputSpec()).unit == "collection2_dn"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert info.spec(InputSpec("collection2_dn")).unit == "collection2_dn"
    for dtype, units in (("uint8", "level1_dn, uint8"), ("int16", "collection2_dn, collection1_sr, hls")):
        info = open_scene(write_tif(tmp_path / f"{dtype}.tif", (pixels() // 200).astype(dtype)))
        with pytest.raises(SceneError, match=f"{dtype} does not say what its numbers, {dtype}, are: give their unit, {units}"):
            info.spec(InputSpec())


def test_the_time_of_a_scene(tmp_path):
    tagged = {"TIFFTAG_DATETIME": "2021:03:04 05:06:07"}
    time = lambda name, **options: str(open_scene(write_tif(tmp_path / name, pixels(), **options)).time)
    assert time("scene.tif", tags=tagged) == "2021-03-04T05:06:07"
    assert time(f"{STEM}.TIF", tags=tagged) == "2020-05-18"  # the name before the time of writing
    assert time("bare.tif") == time("never.tif", tags={"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}) == "NaT"
    (tmp_path / f"{STEM}_MTL.txt").write_text(MTL)
    assert str(open_scene(tmp_path / f"{STEM}.TIF").time) == "2020-05-18T09:41:02"


def test_the_level_of_a_scene_older_than_the_collections_is_in_its_metadata_file(tmp_path):
    mtl = 'DATA_TYPE = "L1T"\nDATE_ACQUIRED = 2014-05-18\nSUN_ELEVATION = 51.5\n'
    info = open_scene(write_scene(tmp_path, "LC81910282014138LGN00", pixels(), mtl=mtl))
    assert (info.unit, str(info.time)) == ("level1_dn", "2014-05-18")


def test_scenes_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(SceneError, match="nowhere: there is no such"):
        open_scene(tmp_path / "nowhere")
    with pytest.raises(SceneError, match="no band files"):
        open_scene(tmp_path)
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no more")
    with pytest.raises(SceneError, match="broken.tif: cannot be read"):
        open_scene(tmp_path / "broken.tif")
    two = write_scene(write_scene(tmp_path / "two", "A", pixels()), "B", pixels())
    with pytest.raises(SceneError, match="more than one scene: A, B"):
        open_scene(two)
    assert open_scene([two / f"A_B{i}.TIF" for i in range(1, 8)]).name == "A"
    moved = write_scene(tmp_path / "moved", "C", pixels())
    write_tif(moved / "C_B3.TIF", pixels(1), origin=(500030.0, 5300000.0))
    with pytest.raises(SceneError, match="C_B3.TIF: SR_B3 has .* or another location"):
        open_scene(moved)


@settings(max_examples=40, deadline=None)
@given(
    st.one_of(
        st.text(max_size=80),
        st.builds(
            lambda date, time, sun, level: (
                f"DATE_ACQUIRED={date}\nSCENE_CENTER_TIME={time}\nSUN_ELEVATION={sun}\nDATA_TYPE={level}"
            ),
            st.text(string.digits + "-", max_size=10),
            st.text(string.digits + ':.Z"', max_size=12),
            st.text(string.digits + ".-", max_size=6),
            st.sampled_from(["L1TP", "L2SP", "x", ""]),
        ),
    )
)
def test_any_metadata_file_is_read_or_named(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("mtl")
    path = write_tif(folder / "scene.tif", pixels(size=(2, 2)))
    (folder / "scene_MTL.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        info = open_scene(path)
    except SceneError as error:
        assert "scene_MTL.txt" in str(error)
    else:
        assert info.unit in ("level1_dn", "collection2_dn", None)


def test_an_untouched_level_2_folder(tmp_path):
    """With the thermal file, whose name ends like a band's, and a metadata file that ends in the record of its input."""
    stem = "LE07_L2SP_193026_20050613_20200914_02_T1"
    mtl = (
        'GROUP = LANDSAT_METADATA_FILE\nGROUP = PRODUCT_CONTENTS\nPROCESSING_LEVEL = "L2SP"\nEND_GROUP = PRODUCT_CONTENTS\n'
        'GROUP = LEVEL1_PROCESSING_RECORD\nPROCESSING_LEVEL = "L1TP"\nEND_GROUP = LEVEL1_PROCESSING_RECORD\n'
        "END_GROUP = LANDSAT_METADATA_FILE\nEND\n"
    )
    folder = write_scene(tmp_path, stem, pixels(6), prefix="SR_B", numbers=(1, 2, 3, 4, 5, 7), mtl=mtl)
    write_tif(folder / f"{stem}_ST_B6.TIF", pixels(1))
    info = open_scene(folder)
    assert (info.unit, info.level, info.sensor, sorted(info.files)) == (
        "collection2_dn",
        2,
        "landsat7",
        sorted(landsat.BANDS[1:]),
    )
    with pytest.raises(SceneError, match="sensor='landsat8' was given, but by its name and metadata it is 'landsat7'"):
        open_scene(folder, sensor="landsat8")


@pytest.mark.parametrize("folder", ["plain", "winter [2021]"])
@pytest.mark.parametrize("ending", ["txt", "json", "xml"])
def test_every_form_of_metadata_file_is_found(tmp_path, folder, ending):
    values = dict(line.replace('"', "").split(" = ") for line in MTL.splitlines())
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in values.items())
    text = {"txt": MTL, "json": json.dumps({"A": values}), "xml": f"<A><B>{inner}</B></A>"}[ending]
    folder = write_scene(tmp_path / folder, STEM, pixels())
    (folder / f"{STEM}_MTL.{ending}").write_text(text)
    for path in (folder, [folder / f"{STEM}_B{i}.TIF" for i in range(1, 8)]):
        info = open_scene(path)
        assert (info.sun_elevation, str(info.time)) == (51.5, "2020-05-18T09:41:02")


def test_a_level_1_scene_without_its_sun_is_not_embedded(tmp_path):
    info = open_scene(write_scene(tmp_path, STEM, pixels()))
    with pytest.raises(SceneError, match="no metadata file .* with its SUN_ELEVATION beside it; give sun_elevation"):
        info.spec(InputSpec())
    assert info.spec(InputSpec(sun_elevation=30.0)).sun_elevation == 30.0
    assert metadata.is_day(info.time)  # its hour is not known, and not midnight


def test_level_1_of_thematic_mappers_has_the_factors_of_its_metadata_file(tmp_path):
    """The sensor comes from the metadata where the name does not say it."""
    facts = 'SPACECRAFT_ID = "LANDSAT_5"\nPROCESSING_LEVEL = "L1TP"\nDATE_ACQUIRED = 2005-06-13\nSUN_ELEVATION = 30.0\n'
    factors = "".join(f"REFLECTANCE_MULT_BAND_{b} = {b}e-3\nREFLECTANCE_ADD_BAND_{b} = -0.0{b}\n" for b in (1, 2, 3, 4, 5, 7))
    image = np.random.default_rng(0).integers(20, 90, (41, 43, 7)).astype(np.uint8)
    info = open_scene(write_scene(tmp_path / "with", "site_a", image, mtl=facts + factors))
    assert info.sensor == "landsat5" and sorted(info.files) == sorted(landsat.BANDS[1:])
    spec = info.spec(InputSpec())
    with SceneReader(info, ("SR_B7", "SR_B2"), "level1_dn") as reader:
        dn = preprocess.to_collection2(reader.read(0, 0, 41, 43), spec, reader.bands)
    reflectance = np.stack([image[..., 6] * 7e-3 - 0.07, image[..., 0] * 1e-3 - 0.01], axis=-1) / 0.5
    np.testing.assert_allclose(dn * 0.0000275 - 0.2, reflectance, atol=1e-5)
    part = open_scene(
        write_scene(tmp_path / "part", "site_a", image, mtl=facts + factors.partition("REFLECTANCE_MULT_BAND_7")[0])
    )
    with SceneReader(part, ("SR_B7",), "level1_dn") as reader, pytest.raises(ValueError, match="level1_factors lack SR_B7"):
        preprocess.to_collection2(reader.read(0, 0, 4, 4), part.spec(InputSpec()), reader.bands)
    bare = open_scene(write_scene(tmp_path / "without", "site_a", image, mtl=facts))
    with pytest.raises(SceneError, match="level-1 numbers of landsat5 have factors of each band's own"):
        bare.spec(InputSpec())


def test_files_names_and_metadata_that_contradict_each_other(tmp_path):
    for number, (stem, prefix, mtl, message) in enumerate(
        (
            (STEM, "SR_B", None, "files are of surface reflectance .* say level 1"),
            (STEM.replace("L1TP", "L2SP"), "B", None, "files are of level 1 .* say level 2"),
            (STEM, "B", 'SPACECRAFT_ID = "LANDSAT_5"', "_MTL.txt: SPACECRAFT_ID = 'LANDSAT_5', but"),
            (STEM, "B", 'PROCESSING_LEVEL = "L2SP"', "_MTL.txt: the metadata say level 2"),
        )
    ):
        folder = write_scene(tmp_path / str(number), stem, pixels(), prefix=prefix, mtl=mtl)
        with pytest.raises(SceneError, match=message):
            open_scene(folder)
    both = write_scene(tmp_path / "both", "A", pixels())
    write_scene(both, "A", pixels(), prefix="SR_B")
    with pytest.raises(SceneError, match="are both SR_B1 of landsat8: name the files of one product"):
        open_scene(both)


def test_masks_of_a_scene_are_no_data(tmp_path):
    image, whole = pixels(), np.zeros((41, 43), bool)
    whole[:, 20:] = True
    path = write_tif(tmp_path / "m.tif", image)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(whole)
    with SceneReader(open_scene(path), landsat.BANDS) as reader:
        np.testing.assert_array_equal(reader.read(2, 18, 5, 4), np.where(whole[2:7, 18:22, None], image[2:7, 18:22], 0))


def test_masks_of_single_bands_are_no_data_in_theirs(tmp_path):
    image, hidden = pixels(), np.zeros((41, 43, 7), bool)
    hidden[:, :20, 2] = True
    path = write_tif(tmp_path / "m.tif", image)
    profile = dict(driver="GTiff", height=41, width=43, count=7, dtype="uint8")
    with rasterio.open(f"{path}.msk", "w", **profile) as file:
        file.write(np.where(hidden, 0, 255).astype(np.uint8).transpose(2, 0, 1))
        file.update_tags(**{f"INTERNAL_MASK_FLAGS_{i}": "0" for i in range(1, 8)})
    wanted = np.where(hidden, 0, image)
    with SceneReader(open_scene(path), landsat.BANDS) as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 41, 43), wanted)
    np.testing.assert_array_equal(read_patch(path).image, wanted)


def test_a_scene_in_the_coordinates_of_a_plan_has_no_place(tmp_path):
    plan = rasterio.crs.CRS.from_wkt('LOCAL_CS["unnamed",UNIT["metre",1]]')
    image = pixels()
    with SceneReader(open_scene(write_tif(tmp_path / "plan.tif", image, crs=plan)), landsat.BANDS) as reader:
        assert np.isnan(reader.locations(3.0, 3.0)).all()
        np.testing.assert_array_equal(reader.read(0, 0, 41, 43), image)


def test_what_was_computed_of_a_product_keeps_its_name(tmp_path):
    """Reflectance as a fraction, under the name of a product whose numbers are others; numbers of 16 bits are believed less."""
    reflectance = (pixels() * 2.75e-5 - 0.2).astype(np.float32)
    info = open_scene(write_tif(tmp_path / f"{STEM.replace('L1TP', 'L2SP')}.tif", reflectance))
    assert info.unit == "collection2_dn" and info.spec(InputSpec(unit="reflectance")).unit == "reflectance"
    info = open_scene(write_tif(tmp_path / "1" / f"{STEM}.tif", pixels(dtype=np.float32)))
    with pytest.raises(SceneError, match="unit='collection2_dn' was given, but by its name and metadata it is 'level1_dn'"):
        info.spec(InputSpec(unit="collection2_dn"))
    info = open_scene(write_tif(tmp_path / "16" / f"{STEM.replace('L1TP', 'L2SP')}.tif", pixels()))
    with pytest.raises(SceneError, match="unit='level1_dn' was given, but by its name and metadata it is 'collection2_dn'"):
        info.spec(InputSpec(unit="level1_dn", sun_elevation=40.0))


def test_a_band_of_another_crs_is_named_with_it(tmp_path):
    folder = write_scene(tmp_path / "s", STEM, pixels())
    write_tif(folder / f"{STEM}_B3.TIF", pixels(bands=1), crs="EPSG:32634")
    with pytest.raises(SceneError, match="_B3.TIF: SR_B3 has the CRS EPSG:32634, the other bands EPSG:32633"):
        open_scene(folder)


def test_a_file_that_does_not_say_where_its_pixels_are_has_no_place(tmp_path):
    """It has a CRS, but no origin and no size of its pixels."""
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=41, width=43, count=7, dtype="uint16", crs=UTM33
    ) as file:
        file.write(np.moveaxis(pixels(), 2, 0))
    info = open_scene(tmp_path / "a.tif")
    with SceneReader(info, landsat.BANDS) as reader:
        assert info.crs is None and np.isnan(reader.locations([20], [20])).all()


def test_coordinates_that_are_none_of_the_crs_are_named_and_longitudes_go_on_beyond_180(tmp_path):
    write_tif(tmp_path / "metres.tif", pixels(), crs="EPSG:4326")
    with pytest.raises(SceneError, match=r"metres: latitude .* is beyond 90 degrees; its coordinates are not those of its CRS"):
        SceneReader(open_scene(tmp_path / "metres.tif"), landsat.BANDS)
    with rasterio.open(
        tmp_path / "east.tif", "w", driver="GTiff", height=41, width=43, count=7, dtype="uint16", crs="EPSG:4326",
        transform=rasterio.transform.from_origin(365, 10, 0.5, 0.25),
    ) as file:  # fmt: skip
        file.write(np.moveaxis(pixels(), 2, 0))
    far = rasterio.transform.from_origin(500000, 50, 0.1, 0.1)
    profile = dict(driver="GTiff", height=41, width=43, count=7, dtype="uint16", crs="EPSG:4326", transform=far)
    with rasterio.open(tmp_path / "far.tif", "w", **profile) as file:
        file.write(np.moveaxis(pixels(), 2, 0))
    with pytest.raises(SceneError, match="far: longitude 500002 is beyond 540 degrees"):
        SceneReader(open_scene(tmp_path / "far.tif"), landsat.BANDS)
    with SceneReader(open_scene(tmp_path / "east.tif"), landsat.BANDS) as reader:
        assert reader.locations([400], [0])[0] == -90  # where a window reaches beyond the pole
        np.testing.assert_allclose(reader.locations([4], [10]), [[9], [10]])


def test_a_scale_that_no_unit_has_is_asked_about(tmp_path):
    path = write_tif(tmp_path / "scaled.tif", pixels())
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [1e-4] * 7, [-0.1] * 7
    info = open_scene(path)
    with pytest.raises(
        SceneError, match=r"scaled.tif has scale 0.0001 and offset -0.1, which no unit has .* give the unit, coll"
    ):
        info.spec(InputSpec())
    assert info.spec(InputSpec("hls")).unit == "hls"


def test_grids_that_differ_by_rounding_are_one(tmp_path):
    """Degrees as two programs write them; a hundredth of a pixel is no rounding."""
    image = pixels(size=(60, 60))
    for shift, fits in ((1e-13, True), (0.02 * 0.00027, False)):
        folder = tmp_path / str(fits)
        for i in range(7):
            origin = (9.0 + shift * (i == 3), 47.8)
            transform = rasterio.transform.from_origin(*origin, 0.00026949458523585647, 0.00026949458523585647)
            write_tif(folder / f"{STEM}_B{i + 1}.TIF", image[..., i : i + 1], crs=None, transform=transform)
            with rasterio.open(folder / f"{STEM}_B{i + 1}.TIF", "r+") as file:
                file.crs = "EPSG:4326"
        (folder / f"{STEM}_MTL.txt").write_text(MTL)
        if fits:
            assert open_scene(folder).transform.c == 9.0
        else:
            with pytest.raises(SceneError, match="SR_B4 has .* another location"):
                open_scene(folder)


@pytest.mark.parametrize("nodata", [None, 1, 0, 65535])
@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32", "float32"])
def test_the_fill_of_a_quality_band(tmp_path, nodata, dtype):
    """USGS's own files have the fill bit as their no-data value; others have a number that is none of its bits."""
    image, cloud, clear = pixels(), 22280, 21824
    qa = np.full((41, 43), clear, dtype)
    qa[:10], qa[30:] = cloud, nodata or (1 if nodata is None else 0)
    scene = write_scene(tmp_path, STEM, image, mtl=MTL)
    write_tif(tmp_path / f"{STEM}_QA_PIXEL.TIF", qa[..., None], nodata=nodata)
    with SceneReader(open_scene(scene), ("SR_B5",)) as reader:
        fill = reader.flagged(("fill",), 0, 0, 41, 43)
        np.testing.assert_array_equal(fill, np.broadcast_to(np.arange(41)[:, None] >= 30, (41, 43)))
        np.testing.assert_array_equal(reader.clouds(0, 0, 41, 43), np.broadcast_to(np.arange(41)[:, None] < 10, (41, 43)))
        assert not reader.flagged(("fill",), -3, 0, 3, 43).any()


def test_numbers_that_are_no_bits_are_fill(tmp_path):
    qa = np.full((41, 43), 21824.0, np.float32)
    qa[0], qa[1], qa[2] = np.nan, -9999, 22280
    scene = write_scene(tmp_path, STEM, pixels(), mtl=MTL)
    write_tif(tmp_path / f"{STEM}_QA_PIXEL.TIF", qa[..., None])
    with SceneReader(open_scene(scene), ("SR_B5",)) as reader:
        assert reader.flagged(("fill",), 0, 0, 41, 43).all(axis=1).tolist() == [True, True] + [False] * 39
        assert reader.clouds(0, 0, 41, 43).all(axis=1).tolist() == [False, False, True] + [False] * 38


def test_factors_that_a_user_gives_go_before_the_metadata_files(tmp_path):
    facts = 'SPACECRAFT_ID = "LANDSAT_5"\nPROCESSING_LEVEL = "L1TP"\nDATE_ACQUIRED = 2005-06-13\nSUN_ELEVATION = 30.0\n'
    for band in (1, 2, 3, 4, 5, 7):
        facts += f"REFLECTANCE_MULT_BAND_{band} = {band}e-3\nREFLECTANCE_ADD_BAND_{band} = -0.0{band}\n"
    info = open_scene(write_scene(tmp_path, "site_a", pixels(dtype=np.uint8), mtl=facts))
    mine = {band: (2e-5, -0.1) for band in landsat.BANDS[1:]}
    spec = info.spec(InputSpec(level1_factors=mine, sun_elevation=90.0))
    assert spec.level1_factors == mine and spec.sun_elevation == 90.0


def test_names_of_bands_are_for_a_single_file(tmp_path):
    """The files of a folder, and a catalogue, name theirs: what was given would be ignored."""
    folder = write_scene(tmp_path / "scene", "LC08_L2SP_191028_20200518_20200820_02_T1", pixels(), prefix="SR_B")
    files = SceneFiles("item", open_scene(folder).files, None, "landsat8", landsat.Product(), "collection2_dn")
    for scene, name in ((folder, "LC08_.*"), ([str(path) for path in folder.glob("*.TIF")], "LC08_.*"), (files, "item")):
        with pytest.raises(SceneError, match=f"{name}: bands names those of a single file"):
            open_scene(scene, bands=("blue", "green", "red"))


def test_numbers_of_landsat_5_need_its_name(tmp_path):
    write_scene(tmp_path / "files", "clip", pixels(6), prefix="SR_B", numbers=(1, 2, 3, 4, 5, 7))
    stack = write_tif(tmp_path / "clip.tif", pixels(6), descriptions=[f"SR_B{i}" for i in (1, 2, 3, 4, 5, 7)])
    for path in (tmp_path / "files", stack):
        with pytest.raises(SceneError, match="numbered as those of Landsat 4, 5 and 7; name the sensor"):
            open_scene(path)
        assert tuple(open_scene(path, sensor="landsat5").files) == landsat.BANDS[1:]
        assert "SR_B6" not in open_scene(path, sensor="landsat8").files

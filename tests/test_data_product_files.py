"""Scenes of other makers and on the network."""

import numpy as np
import pytest
import rasterio
import tifffile
from geotiffs import UTM33, pixels, write_scene, write_tif
from web import serve

from geomoe import landsat
from geomoe.data.product_files import SceneError
from geomoe.data.scene import SceneReader, open_scene

HLS = "HLS.L30.T33UUP.2021164T100231.v2.0"
STEM = "LC08_L2SP_193026_20210613_20210622_02_T1"


def test_a_tile_of_hls(tmp_path):
    image = (pixels(dtype=np.int16) // 4).astype(np.int16)
    image[:5] = -9999
    for i in range(7):
        write_tif(tmp_path / f"{HLS}.B0{i + 1}.tif", image[..., i : i + 1], nodata=-9999)
    for other in ("B09", "B10", "B11"):
        write_tif(tmp_path / f"{HLS}.{other}.tif", image[..., :1])
    write_tif(tmp_path / f"{HLS}.Fmask.tif", np.full((41, 43, 1), 2, np.uint8))
    info = open_scene(tmp_path)
    assert (info.name, info.unit, str(info.time)) == (HLS, "hls", "2021-06-13T10:02:31")
    with SceneReader(info, landsat.BANDS, "hls") as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 41, 43), image)
        assert reader.flagged(("cloud",), 0, 0, 41, 43).all() and not reader.flagged(("snow",), 0, 0, 41, 43).any()
    write_tif(tmp_path / "s" / f"{HLS.replace('L30', 'S30')}.B02.tif", image[..., :1])
    with pytest.raises(SceneError, match="HLS S30 is Sentinel-2's"):
        open_scene(tmp_path / "s")


def test_collection_1_surface_reflectance_by_espa(tmp_path):
    stem = "LT05_L1TP_012031_20021027_20160926_01_T1"
    image = (pixels(6, dtype=np.int16) // 4).astype(np.int16)
    write_scene(tmp_path, stem, image, prefix="sr_band", numbers=(1, 2, 3, 4, 5, 7))
    write_tif(tmp_path / f"{stem}_pixel_qa.TIF", np.full((41, 43, 1), 1 << 5, np.uint16))
    info = open_scene(tmp_path)
    assert (info.sensor, info.unit, info.qa[1]) == ("landsat5", "collection1_sr", "PIXEL_QA")
    with SceneReader(info, landsat.BANDS[1:], "collection1_sr") as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 41, 43), image)
        assert reader.clouds(0, 0, 41, 43).all()


@pytest.mark.parametrize(
    "stem, kind",
    [
        ("LC08_L1TP_193026_20190613_20190619_01_T1", "BQA_C1"),
        ("LC08_L1GT_193026_20190613_20190619_01_T2", "BQA_C1"),
        ("LC08_L1TP_193026_20190613_20190613_01_RT", "BQA_C1"),
        ("LC81930262015164LGN00", "BQA"),
    ],
)
def test_the_bits_of_bqa_are_those_of_its_collection(tmp_path, stem, kind):
    """A pixel of 2800 is cloud to collection 1 (LSDS-1873), and none before the collections, where bits 14 and 15 say it."""
    write_scene(tmp_path, stem, pixels(), qa=np.full((41, 43), 2800), qa_name="BQA")
    info = open_scene(tmp_path)
    assert info.qa[1] == kind
    with SceneReader(info, landsat.BANDS, "level1_dn") as reader:
        assert (reader.clouds(0, 0, 41, 43) == (kind == "BQA_C1")).all()


def test_the_quality_band_is_the_scenes_own(tmp_path):
    """Beside it may lie those of other dates; one without a product's name is taken where it is alone."""
    other = "LC08_L2SP_193026_20200613_20200622_02_T1"
    write_scene(tmp_path / "own", STEM, pixels(), prefix="SR_B", qa=np.full((41, 43), 2))
    write_scene(tmp_path / "none", STEM, pixels(), prefix="SR_B")
    for folder in ("own", "none"):
        write_tif(tmp_path / folder / f"{other}_QA_PIXEL.TIF", np.full((41, 43, 1), 8, np.uint16))
    assert open_scene(tmp_path / "own").qa.path.endswith(f"{STEM}_QA_PIXEL.TIF") and open_scene(tmp_path / "none").qa is None
    write_tif(tmp_path / "own" / f"{STEM}_BQA.TIF", np.full((41, 43, 1), 8, np.uint16))  # whose bits are other ones
    assert open_scene(tmp_path / "own").qa.kind == "QA_PIXEL"
    write_tif(tmp_path / "none" / "clouds_qa_pixel.tif", np.full((41, 43, 1), 8, np.uint16))
    assert open_scene(tmp_path / "none").qa.path.endswith("clouds_qa_pixel.tif")


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 7)])
def test_files_named_by_their_band_alone_and_earth_engines(tmp_path, numbers):
    """Earth Engine's downloads have a dot before the band; a thermal band is none of reflectance, wherever its name stands."""
    sensor, stem = ("LC08", "193026_20210613") if 6 in numbers else ("LE07", "193026_20050613")
    image = pixels(len(numbers))
    for folder, start in (("alone", ""), ("engine", f"{sensor}_{stem}.")):
        for channel, number in enumerate(numbers):
            write_tif(tmp_path / folder / f"{start}SR_B{number}.TIF", image[..., channel : channel + 1])
        write_tif(tmp_path / folder / f"{start}ST_B{10 if 6 in numbers else 6}.TIF", image[..., :1])
        write_tif(tmp_path / folder / f"{start}QA_PIXEL.TIF", np.full((41, 43, 1), 8, np.uint16))
    found = open_scene(tmp_path / "engine")
    assert (found.name, str(found.time)) == (f"{sensor}_{stem}", "2021-06-13" if 6 in numbers else "2005-06-13")
    alone = open_scene(tmp_path / "alone", sensor=found.sensor)
    assert alone.name == "alone" and np.isnat(alone.time)
    product = f"{sensor}_L2SP_193026_20010613_20210622_02_T1"
    (tmp_path / "alone" / f"{product}_MTL.txt").write_text('PROCESSING_LEVEL = "L2SP"\nDATE_ACQUIRED = 2001-06-13')
    described = open_scene(tmp_path / "alone")
    assert (described.name, described.sensor, str(described.time)) == (product, found.sensor, "2001-06-13")
    for info in (found, alone, described):
        assert info.unit == "collection2_dn" and sorted(info.files) == sorted(landsat.sensor_bands(found.sensor))
        with SceneReader(info, list(info.files)) as reader:
            np.testing.assert_array_equal(reader.read(0, 0, 41, 43), image)
            assert reader.clouds(0, 0, 41, 43).all()


def test_a_quality_band_among_the_bands_of_a_file(tmp_path):
    """As Earth Engine exports an image: one file, floats with NaN where there is nothing."""
    image = np.concatenate([pixels(), np.full((41, 43, 1), 2)], axis=-1).astype(np.float32)
    image[:9, :, 7], image[9, :, 7] = 8, np.nan
    path = write_tif(tmp_path / "export.tif", image, descriptions=[*landsat.BANDS, "QA_PIXEL"])
    for bands in (None, [*landsat.BANDS, "QA_PIXEL"]):
        info = open_scene(path, bands)
        assert info.qa == (str(path), "QA_PIXEL", 8) and list(info.files) == list(landsat.BANDS)
        with SceneReader(info, landsat.BANDS) as reader:
            np.testing.assert_array_equal(reader.clouds(0, 0, 12, 43), np.arange(12)[:, None].repeat(43, 1) != 9)
            assert reader.flagged(("fill",), 9, 0, 1, 43).all() and reader.flagged(("cloud",), 0, 0, 9, 43).all()


def test_a_quality_band_has_its_own_no_data_value(tmp_path):
    """Where it is kept beside the file, by band: 21824, clear land, is the value of the bands alone."""
    image = np.concatenate([pixels(), np.full((41, 43, 1), 21824)], axis=-1).astype(np.uint16)
    image[:5, :, 7] = 7
    path = write_tif(tmp_path / "e.tif", image, descriptions=[*landsat.BANDS, "QA_PIXEL"])
    band = '<PAMRasterBand band="{}"><NoDataValue>{}</NoDataValue></PAMRasterBand>'
    said = "".join(band.format(i, 7 if i == 8 else 21824) for i in range(1, 9))
    (tmp_path / "e.tif.aux.xml").write_text(f"<PAMDataset>{said}</PAMDataset>")
    with rasterio.open(path) as file:
        assert file.nodatavals == (21824,) * 7 + (7,)
    with SceneReader(open_scene(path), landsat.BANDS) as reader:
        fill = reader.flagged(("fill",), 0, 0, 41, 43)
    assert fill[:5].all() and not fill[5:].any()


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / f"{STEM}.tar").write_bytes(b"")
    with pytest.raises(SceneError, match="no band files .*; unpack the archive first"):
        open_scene(tmp_path)


def test_the_unit_of_scale_and_offset_tags(tmp_path):
    def scaled(name, scale, offset):
        path = write_tif(tmp_path / name, pixels())
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = [scale] * 7, [offset] * 7
        return path

    assert open_scene(scaled("a.tif", 0.0000275, -0.2)).unit == "collection2_dn"
    assert open_scene(scaled("b.tif", 0.0001, 0.0)).unit == "hls"
    assert open_scene(write_tif(tmp_path / "c.tif", pixels())).unit is None
    with pytest.raises(SceneError, match=f"'collection2_dn' by {STEM} and 'hls' by .*{STEM}.tif: which is right"):
        open_scene(scaled(f"{STEM}.tif", 0.0001, 0.0))


def write_cog(path, image, block=64):
    profile = dict(driver="COG", height=image.shape[0], width=image.shape[1], count=1, dtype="uint16", crs=UTM33, nodata=0)
    transform = rasterio.Affine(30, 0, 500000, 0, -30, 5300000)
    with rasterio.open(path, "w", transform=transform, blocksize=block, compress="deflate", **profile) as file:
        file.write(image, 1)


def test_a_folder_on_the_network_is_read_by_windows(tmp_path):
    """Bytes read stay within 1.3 times those of the blocks that windows touch, and failures are tried again."""
    folder = tmp_path / STEM
    folder.mkdir()
    image = np.random.default_rng(0).integers(7000, 20000, (1024, 1024, 7)).astype(np.uint16)  # noise: deflate saves little
    for i in range(7):
        write_cog(folder / f"{STEM}_SR_B{i + 1}.TIF", image[..., i], block=128)
    write_cog(folder / f"{STEM}_QA_PIXEL.TIF", np.full((1024, 1024), 64, np.uint16), block=128)
    (folder / f"{STEM}_MTL.txt").write_text("DATE_ACQUIRED = 2021-06-13\nSCENE_CENTER_TIME = 10:02:31Z\nSUN_ELEVATION = 61.0\n")
    with serve(tmp_path) as served:
        served.failures[f"/{STEM}/{STEM}_SR_B1.TIF"] = 2
        info = open_scene(f"{served.address}/{STEM}")
        assert (info.unit, str(info.time), info.sun_elevation) == ("collection2_dn", "2021-06-13T10:02:31", 61.0)
        served.failures[f"/{STEM}/{STEM}_SR_B3.TIF"] = 1
        with SceneReader(info, landsat.BANDS) as reader:
            for top in range(-40, 1024, 200):  # strips that overlap and share blocks, as those of windows do
                strip = reader.read(top, 0, 240, 1024)
                np.testing.assert_array_equal(strip[max(-top, 0) :][:20], image[max(top, 0) : max(top, 0) + 20])
        assert not any("aux" in request or "msk" in request for request in served.requests)
        for i in range(7):
            path = f"{STEM}/{STEM}_SR_B{i + 1}.TIF"
            with tifffile.TiffFile(tmp_path / path) as tif:
                blocks = sum(tif.pages.first.databytecounts)
            assert blocks < served.sent[f"/{path}"] <= 1.3 * blocks
        with pytest.raises(SceneError, match="gone_SR_B1|neither the address"):
            open_scene(f"{served.address}/gone")
        with pytest.raises(SceneError, match="cannot be read as GeoTIFF"):
            open_scene(f"{served.address}/{STEM.replace('0613', '0614')}")


def test_files_of_other_instruments_are_refused(tmp_path):
    """Their numbers are other wavelengths: the bands of Sentinel-2, and of the scanner MSS."""
    for band in ("B02", "B03", "B04", "B8A", "B11", "B12"):
        write_tif(tmp_path / "s2" / f"T32TPT_20210613T101031_{band}.tif", pixels(1))
    with pytest.raises(SceneError, match=r"_B(8A|12).tif is a band of Sentinel-2"):
        open_scene(tmp_path / "s2")
    write_scene(tmp_path / "mss", "LM05_L1TP_193026_19850613_20200902_02_T2", pixels(4), numbers=range(1, 5))
    with pytest.raises(SceneError, match="MSS has four bands"):
        open_scene(tmp_path / "mss")


def test_what_macos_leaves_beside_the_files_is_no_file_of_the_scene(tmp_path):
    write_scene(tmp_path, STEM, pixels(), prefix="SR_B")
    for ending in ("SR_B1.TIF", "MTL.txt"):
        (tmp_path / f"._{STEM}_{ending}").write_bytes(b"no")
    assert open_scene(tmp_path).name == STEM


def test_names_in_lower_case_say_as_much(tmp_path):
    write_scene(tmp_path, "le07_l2sp_193026_20050613_20200914_02_t1", pixels(6), prefix="sr_b", numbers=(1, 2, 3, 4, 5, 7))
    info = open_scene(tmp_path)
    assert (info.sensor, str(info.time), sorted(info.files)) == ("landsat7", "2005-06-13", sorted(landsat.BANDS[1:]))


def test_a_metadata_file_of_another_product_is_not_taken(tmp_path):
    write_tif(tmp_path / "mosaic.tif", pixels())
    facts = "DATE_ACQUIRED = 2020-05-18\nSUN_ELEVATION = 51.5\n"
    (tmp_path / "LC08_L1TP_191028_20200518_20200820_02_T1_MTL.txt").write_text(facts)
    info = open_scene(tmp_path / "mosaic.tif")
    assert np.isnat(info.time) and info.sun_elevation is None


CLEAR, CLOUDY = 2720, 2800  # Landsat 8, Collection 1, by the table of LSDS-1873: clear land, cloud of high confidence


@pytest.mark.parametrize(
    "name, mtl, kind",
    [
        ("LC08_L1TP_193026_20180613_20180613_01_T1", None, "BQA_C1"),
        ("clip_LC08_L1TP_193026_20180613_20180613_01_T1_b", None, "BQA_C1"),
        ("LC08_193026_20180613", None, "BQA_C1"),  # Earth Engine's, whose Collection 2 has QA_PIXEL
        ("export", None, "BQA_C1"),
        ("LC81930262015164LGN00", "COLLECTION_NUMBER = 01\nLANDSAT_SCENE_ID = LC81930262015164LGN01", "BQA_C1"),
        ("LC81930262015164LGN00", None, "BQA"),
        ("subset_LC81930262015164LGN00_b", None, "BQA"),
        ("export", "LANDSAT_SCENE_ID = LC81930262015164LGN00", "BQA"),
    ],
)
@pytest.mark.parametrize("form", ["stack", "alone"])
def test_the_collection_of_bqa_where_its_own_name_does_not_tell(tmp_path, form, name, mtl, kind):
    """As a band of a file, and as `BQA.TIF` in a product's folder."""
    folder, bits = tmp_path / name, np.full((41, 43, 1), CLEAR, np.uint16)
    bits[:20] = CLOUDY
    if form == "stack":
        descriptions = [*(f"B{i}" for i in range(1, 8)), "BQA"]
        path = write_tif(folder / f"{name}.tif", np.concatenate([pixels(), bits], axis=-1), descriptions=descriptions)
    else:
        path = folder
        for i in range(7):
            write_tif(folder / f"B{i + 1}.TIF", pixels()[..., i : i + 1])
        write_tif(folder / "BQA.TIF", bits)
    if mtl:
        (folder / f"{name}_MTL.txt").write_text(mtl)
    info = open_scene(path)
    assert (info.name, info.qa.kind) == (name, kind)
    with SceneReader(info, landsat.BANDS, "level1_dn") as reader:
        clouds = reader.clouds(0, 0, 41, 43)
    np.testing.assert_array_equal(clouds.all(axis=1), (np.arange(41) < 20) & (kind == "BQA_C1"))
    assert clouds.any() == (kind == "BQA_C1")


def test_a_stack_has_the_metadata_and_the_quality_band_of_its_product(tmp_path):
    """Given as a file, with its quality band, or as its folder."""
    name = "LC08_L1TP_193026_20210613_20210622_02_T1"
    stack = write_tif(tmp_path / f"{name}_stack.tif", pixels(), descriptions=[f"B{i}" for i in range(1, 8)])
    qa = write_tif(tmp_path / f"{name}_QA_PIXEL.TIF", np.full((41, 43, 1), 8, np.uint16))
    facts = 'SPACECRAFT_ID = "LANDSAT_8"\nDATE_ACQUIRED = 2021-06-13\nSCENE_CENTER_TIME = 10:02:31Z\nSUN_ELEVATION = 55.0\n'
    (tmp_path / f"{name}_MTL.txt").write_text(facts)
    for path in (stack, [str(stack), str(qa)], tmp_path):
        info = open_scene(path)
        assert (info.name, info.sun_elevation, str(info.time)) == (f"{name}_stack", 55.0, "2021-06-13T10:02:31")
        assert info.qa == (str(qa), "QA_PIXEL", 1) and info.origin == str(tmp_path / f"{name}_MTL.txt")


def test_the_quality_band_of_a_stack_is_found_in_any_case_beside_another_and_a_damaged_one_is_none(tmp_path):
    stack = write_tif(tmp_path / f"{STEM.lower()}_stack.tif", pixels(), descriptions=landsat.BANDS)
    clear = np.full((41, 43, 1), 21824, np.uint16)
    for name in ("BQA", "QA_PIXEL"):
        write_tif(tmp_path / f"{STEM}_{name}.TIF", clear)
        for path in (stack, tmp_path):
            assert open_scene(path).qa.path.endswith(f"{STEM}_{name}.TIF")
    (tmp_path / f"{STEM}_BQA.TIF").unlink()
    (tmp_path / f"{STEM}_QA_PIXEL.TIF").write_bytes(b"II*\0" + bytes(40))
    assert open_scene(stack).qa is None


def test_a_stack_takes_no_quality_band_of_other_scenes_or_grids(tmp_path):
    """Beside it lie that of another date, one of no date, and for a clip that of the whole scene."""
    for other in (STEM.replace("20210613", "20210629"), "LC08", "clouds"):
        write_tif(tmp_path / f"{other}_QA_PIXEL.TIF", np.full((41, 43, 1), 8, np.uint16))
    stack = write_tif(tmp_path / f"{STEM}_stack.tif", pixels(), descriptions=landsat.BANDS)
    assert open_scene(stack).qa is None
    write_tif(tmp_path / f"{STEM}_QA_PIXEL.TIF", np.full((41, 43, 1), 8, np.uint16))
    assert open_scene(stack).qa.path.endswith(f"{STEM}_QA_PIXEL.TIF")
    assert open_scene(write_tif(tmp_path / f"{STEM}_clip.tif", pixels(size=(20, 20)), descriptions=landsat.BANDS)).qa is None


def test_a_folder_of_one_file_may_hold_what_is_no_geotiff(tmp_path):
    write_tif(tmp_path / "x.tif", pixels(), descriptions=landsat.BANDS)
    (tmp_path / "x.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    (tmp_path / "README").write_text("of the maker")
    assert open_scene(tmp_path).files["SR_B7"] == (str(tmp_path / "x.tif"), 7)
    write_tif(tmp_path / "y.tif", pixels())
    with pytest.raises(SceneError, match="no band files .* but 2 other GeoTIFFs: name one of them"):
        open_scene(tmp_path)


def test_a_quality_band_may_be_described_by_its_file(tmp_path):
    bits = np.full((41, 43, 1), 8, np.uint16)
    descriptions = [f"X_{band}.TIF" for band in (*landsat.BANDS, "QA_PIXEL")]
    path = write_tif(tmp_path / "y.tif", np.concatenate([pixels(), bits], axis=-1), descriptions=descriptions)
    info = open_scene(path)
    assert info.qa == (str(path), "QA_PIXEL", 8) and list(info.files) == list(landsat.BANDS)


def test_positions_from_0_are_no_numbers_of_bands(tmp_path):
    image = pixels()
    path = write_tif(tmp_path / "n.tif", image, descriptions=[f"band_{i}" for i in range(7)])
    assert {band: index for band, (_, index) in open_scene(path).files.items()} == dict(zip(landsat.BANDS, range(1, 8)))
    for names in ([f"band_{i}" for i in range(8)], [str(i) for i in range(8)]):
        eight = write_tif(tmp_path / "m.tif", pixels(8), descriptions=names)
        with pytest.raises(SceneError, match="has 8 bands and does not say which; name them all, as in bands=.* or --bands"):
            open_scene(eight)


def test_names_that_are_no_bands_lead_to_the_option(tmp_path):
    path = write_tif(tmp_path / "s.tif", pixels(), descriptions=[f"{band}_stdDev" for band in landsat.BANDS])
    with pytest.raises(SceneError, match="SR_B7_stdDev, none of which is one of landsat8's; .* bands=.* or --bands"):
        open_scene(path)


def test_a_thermal_band_6_says_that_the_numbers_are_not_landsat_8s(tmp_path):
    names = [f"SR_B{i}" for i in (1, 2, 3, 4, 5, 7)]
    path = write_tif(tmp_path / "tm.tif", pixels(), descriptions=[*names, "ST_B6"])
    for i, name in enumerate((*names, "ST_B6")):
        write_tif(tmp_path / "alone" / f"{name}.TIF", pixels()[..., i : i + 1])
    for scene in (path, tmp_path / "alone"):
        with pytest.raises(
            SceneError, match="ST_B6.* is a thermal band of Landsat 4, 5 or 7, not of landsat8; name the sensor"
        ):
            open_scene(scene)
        assert sorted(open_scene(scene, sensor="landsat7").files) == list(landsat.BANDS[1:])


def test_a_tile_of_collection_1s_ard(tmp_path):
    stem = "LC08_CU_003009_20130519_20170430_C01_V01"
    image = (pixels(dtype=np.int16) // 4).astype(np.int16)
    write_scene(tmp_path, stem, image, prefix="SRB", qa=np.full((41, 43), 1 << 5), qa_name="PIXELQA")
    write_tif(tmp_path / f"{stem}_RADSATQA.tif", np.zeros((41, 43, 1), np.uint16))
    info = open_scene(tmp_path)
    assert (info.sensor, info.unit, info.qa.kind, str(info.time)) == ("landsat8", "collection1_sr", "PIXEL_QA", "2013-05-19")
    with SceneReader(info, landsat.BANDS, "collection1_sr") as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 41, 43), image)
        assert reader.clouds(0, 0, 41, 43).all()


def test_names_that_go_on_after_the_band_are_to_be_changed(tmp_path):
    for i in range(1, 8):
        write_tif(tmp_path / f"{STEM}_SR_B{i}_clip.TIF", pixels(1))
    with pytest.raises(SceneError, match=f"the band has to end a name: {STEM}_clip_SR_B1.TIF, not {STEM}_SR_B1_clip.TIF"):
        open_scene(tmp_path)

"""Rasters that lie: about their format, their size, and what else to open."""

import os

import numpy as np
import pytest
import rasterio
from geotiffs import pixels, write_tif
from web import serve

from geomoe.data.geotiff import PatchError, read_patch
from geomoe.data.raster import RasterError, check_size, open_raster, read_options
from geomoe.data.scene import SceneError, open_scene

VRT = """<VRTDataset rasterXSize="43" rasterYSize="41"><SRS>EPSG:32633</SRS>
<GeoTransform>500000,30,0,5300000,0,-30</GeoTransform>{}</VRTDataset>"""
BAND = """<VRTRasterBand dataType="UInt16" band="{0}"><SimpleSource><SourceFilename>{1}</SourceFilename>
<SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>"""
WMS = """<GDAL_WMS><Service name="TMS"><ServerUrl>{}</ServerUrl></Service><DataWindow><UpperLeftX>0</UpperLeftX>
<UpperLeftY>1</UpperLeftY><LowerRightX>1</LowerRightX><LowerRightY>0</LowerRightY><SizeX>41</SizeX><SizeY>41</SizeY></DataWindow>
<Projection>EPSG:4326</Projection><BandsCount>7</BandsCount><DataType>UInt16</DataType></GDAL_WMS>"""


@pytest.fixture
def asked(tmp_path):
    """A server on localhost, and what was asked of it."""
    (tmp_path / "web").mkdir()
    with serve(tmp_path / "web") as served:
        yield served.address, served.requests


def test_a_text_that_leads_elsewhere_is_no_raster(tmp_path, asked):
    address, paths = asked
    secret = write_tif(tmp_path / "other" / "secret.tif", pixels())
    texts = {
        "local": VRT.format("".join(BAND.format(i, secret) for i in range(1, 8))),
        "remote": VRT.format("".join(BAND.format(i, f"/vsicurl/{address}/a.tif") for i in range(1, 8))),
        "wms": WMS.format(f"{address}/${{z}}/${{x}}/${{y}}.png"),
        "wcs": f"<WCS_GDAL><ServiceURL>{address}?</ServiceURL><CoverageName>a</CoverageName></WCS_GDAL>",
        "wmts": f"<GDAL_WMTS><GetCapabilitiesUrl>{address}</GetCapabilitiesUrl></GDAL_WMTS>",
        "address": f"WMTS:{address}",
    }
    with rasterio.open(secret) as source:  # the first text would be followed by GDAL left to itself
        (tmp_path / "local.vrt").write_text(texts["local"])
        with rasterio.open(tmp_path / "local.vrt") as followed:
            np.testing.assert_array_equal(followed.read(), source.read())
    for name, text in texts.items():
        path = tmp_path / f"{name}.tif"
        path.write_text(text)
        with pytest.raises(PatchError, match=f"{name}.tif: unreadable image"):
            read_patch(path)
        with pytest.raises(SceneError, match=f"{name}.tif: cannot be read as GeoTIFF"):
            open_scene(path)
    assert paths == []


def test_sidecars_and_tags_lead_nowhere(tmp_path, asked):
    """A mask beside a file is a GeoTIFF; overviews elsewhere, in a tag or beside, are not looked for."""
    address, paths = asked
    secret = write_tif(tmp_path / "other" / "secret.tif", pixels(1) * 0)
    masked = write_tif(tmp_path / "masked.tif", pixels())
    (tmp_path / "masked.tif.msk").write_text(VRT.format(BAND.format(1, secret)))
    tagged = write_tif(tmp_path / "tagged.tif", pixels())
    with rasterio.open(tagged, "r+") as file:
        file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=f"/vsicurl/{address}/o.tif")
    for path in (masked, tagged):
        np.testing.assert_array_equal(read_patch(path).image, pixels())
    assert paths == []


def test_pipes_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(PatchError, match="pipe.tif: unreadable image: is no regular file"):
        read_patch(tmp_path / "pipe.tif")
    with pytest.raises(SceneError, match="pipe.tif"):
        open_scene(tmp_path / "pipe.tif")


def test_claimed_sizes_are_checked_before_anything_is_decoded(tmp_path):
    for options in ({}, {"compress": "lzw"}):  # tifffile; GDAL
        sparse = tmp_path / "sparse.tif"
        profile = dict(
            driver="GTiff", width=30000, height=30000, count=7, dtype="uint16", tiled=True, sparse_ok=True, **options
        )
        with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(sparse, "w", **profile):
            pass
        assert sparse.stat().st_size < 1_000_000
        with pytest.raises(PatchError, match="too large: 30000 x 30000 pixels are more than the 4096") as error:
            read_patch(sparse, need_crs=False)
        assert error.value.kind == "too large"
    with pytest.raises(RasterError, match="take 1.5 GB"):
        check_size(10000, 10000, 8, 2, max_side=None)
    check_size(4096, 4096, 7, 8)
    wide = write_tif(tmp_path / "wide.tif", pixels(size=(3, 60)))
    with pytest.raises(PatchError, match="3 x 60 pixels are more than the 50"):
        read_patch(wide, max_side=50)
    assert read_patch(wide, max_side=60).image.shape == (3, 60, 7)


def test_a_strip_that_decodes_to_more_than_the_image_is_not_decoded_whole(tmp_path):
    """41 x 41 pixels whose one strip holds 400 MB of zeros: tifffile would decode them all."""
    import tracemalloc
    import zlib

    import tifffile

    image = pixels(size=(41, 41))
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig", compression="zlib", rowsperstrip=41)
    data = bytearray(path.read_bytes())
    packer = zlib.compressobj(9)
    block = b"".join([packer.compress(image.tobytes()), packer.compress(bytes(400 << 20)), packer.flush()])
    with tifffile.TiffFile(path) as tif:
        offset, count = (tif.pages.first.tags[code] for code in ("StripOffsets", "StripByteCounts"))
        places = offset.valueoffset, count.valueoffset
        form = "<I" if count.dtype == 4 else "<H"
    import struct

    assert form == "<I", "the test needs a count of four bytes"
    struct.pack_into("<I", data, places[0], len(data))
    struct.pack_into("<I", data, places[1], len(block))
    path.write_bytes(bytes(data) + block)
    tracemalloc.start()
    try:
        patch = read_patch(path, need_crs=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(patch.image, image)
    assert peak < 50 << 20


def test_blocks_are_bounded(tmp_path):
    path = tmp_path / "blocks.tif"
    profile = dict(
        driver="GTiff", width=64, height=64, count=1, dtype="float64", tiled=True, blockxsize=16384, blockysize=16384
    )
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path, "w", sparse_ok=True, **profile):
        pass
    with pytest.raises(RasterError, match="blocks take 2048 MB each"):
        open_raster(str(path))


def test_reading_keeps_few_blocks_in_memory(tmp_path):
    """GDAL takes 5 % of all memory unless told, which a whole scene fills; rasterio gives it the limit in bytes."""
    for path in (str(tmp_path / "a.tif"), "https://example.org/a.tif"):
        with read_options(path):
            assert rasterio.env.get_gdal_config("GDAL_CACHEMAX") == 128 * 1024**2

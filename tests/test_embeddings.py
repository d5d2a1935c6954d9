"""Embeddings to files: datasets, folders, scenes; back again; after an interruption."""

import json
import shutil

import numpy as np
import pyproj
import pytest
import rasterio
from conftest import DATA
from rasterio.transform import from_origin

import geomoe
from geomoe import embeddings, landsat
from geomoe.cli import embed as cli
from geomoe.data import preprocess, synthetic
from geomoe.data.scene import SceneError, open_scene
from geomoe.probing import knn_probe, linear_probe

PTH = DATA / "reference_tiny_random.pth"
SIZE = 8  # of a window


@pytest.fixture(scope="module")
def encoder():
    return geomoe.load(PTH)


def write(path, image, crs="EPSG:32633", nodata=None, descriptions=None):
    profile = dict(
        driver="GTiff", height=image.shape[0], width=image.shape[1], count=image.shape[2], dtype=image.dtype, crs=crs
    )
    with rasterio.open(path, "w", transform=from_origin(500000, 5000000, 30, 30), nodata=nodata, **profile) as file:
        file.write(np.moveaxis(image, 2, 0))
        if descriptions:
            file.descriptions = descriptions


@pytest.fixture(scope="module")
def ground():
    """(44, 44, 7) digital numbers with a corner without data."""
    image = synthetic.scene(0, "test", 3).image.copy()
    image[:12, :12] = 0
    return image


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory, ground):
    path = tmp_path_factory.mktemp("scene") / "LC08_L2SP_191028_20200518_20200820_02_T1.TIF"
    write(path, ground)
    return path


def expected(encoder, ground, stride=4):
    """Windows, one after the other, from the array itself."""
    steps = -(-(44 - SIZE) // stride) + 1
    padded = np.zeros((44 + SIZE, 44 + SIZE, 7), np.uint16)
    padded[:44, :44] = ground
    to_wgs84 = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    out = {}
    for i in range(steps):
        for j in range(steps):
            window = padded[i * stride : i * stride + SIZE, j * stride : j * stride + SIZE]
            x, y = 500000 + 30 * (j * stride + SIZE / 2), 5000000 - 30 * (i * stride + SIZE / 2)
            lon, lat = to_wgs84.transform(x, y)
            time = np.datetime64("2020-05-18")
            valid = 1 - (window == 0).any(axis=-1).mean()
            vector = encoder.embed(window[None], [lat], [lon], [time])[0] if valid >= 0.5 else None
            out[i, j] = (lat, lon, x, y, valid, vector)
    return out


def test_a_scene_becomes_a_raster_in_its_place(encoder, scene_file, ground, tmp_path):
    output = tmp_path / "scene.tif"
    counts = embeddings.embed_scene(encoder, embeddings.Sink(output, batch_size=16), scene_file)
    wanted = expected(encoder, ground)
    assert counts == {"patches": len(wanted), "embedded": sum(w[5] is not None for w in wanted.values())}
    assert 0 < counts["embedded"] < counts["patches"]
    with rasterio.open(output) as file:
        values = file.read()
        assert file.crs.to_epsg() == 32633 and np.isnan(file.nodata) and file.count == 16
        for (i, j), (_, _, x, y, _, vector) in wanted.items():
            assert file.xy(i, j) == pytest.approx((x, y))
            if vector is None:
                assert np.isnan(values[:, i, j]).all()
            else:
                np.testing.assert_allclose(values[:, i, j], vector, atol=1e-5)
        facts = json.loads(file.tags()["geomoe"])
    assert facts["input"]["unit"] == "collection2_dn" and facts["time"].startswith("2020-05-18")
    assert not (tmp_path / "scene.tif.parts").exists()


def test_a_scene_becomes_geoparquet(encoder, scene_file, ground, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "scene.parquet"
    embeddings.embed_scene(encoder, embeddings.Sink(output), scene_file)
    found, wanted = embeddings.read(output), expected(encoder, ground)
    for row, (lat, lon, _, _, valid, vector) in enumerate(wanted.values()):
        assert (found["latitude"][row], found["longitude"][row]) == pytest.approx((lat, lon))
        assert found["valid_fraction"][row] == pytest.approx(valid) and found["embedded"][row] == (vector is not None)
        if vector is not None:
            np.testing.assert_allclose(found["vector"][row], vector, atol=1e-5)
    table = pq.read_table(output)
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["columns"][geo["primary_column"]]["encoding"] == "WKB"
    polygon = np.frombuffer(table["geometry"][0].as_py()[13:], "<f8").reshape(5, 2)
    to_wgs84 = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    np.testing.assert_allclose(polygon[0], to_wgs84.transform(500000, 5000000))
    np.testing.assert_allclose(polygon[2], to_wgs84.transform(500000 + 240, 5000000 - 240))
    low, high = geo["columns"]["geometry"]["bbox"][:2], polygon.min(axis=0)
    assert low[0] <= high[0] and low[1] <= high[1]


def test_one_file_a_band_with_metadata_clouds_and_another_nodata_number(encoder, ground, tmp_path):
    folder = tmp_path / "scene"
    folder.mkdir()
    stem = "LC08_L1TP_191028_20200518_20200820_02_T1"
    image = np.where(ground == 0, 65535, ground).astype(np.uint16)
    for i in range(7):
        write(folder / f"{stem}_B{i + 1}.TIF", image[:, :, i : i + 1], nodata=65535)
    cloudy = np.zeros((44, 44, 1), np.uint16)
    cloudy[20:, 20:] = 1 << 3
    write(folder / f"{stem}_QA_PIXEL.TIF", cloudy)
    (folder / f"{stem}_MTL.txt").write_text(
        'PROCESSING_LEVEL = "L1TP"\nDATE_ACQUIRED = 2020-05-18\nSCENE_CENTER_TIME = "09:41:02.1Z"\nSUN_ELEVATION = 51.5\n'
    )
    info = open_scene(folder)
    assert (info.level, info.sun_elevation, str(info.time)) == (1, 51.5, "2020-05-18T09:41:02")
    with pytest.raises(SceneError, match="level-1 product.*unit='level1_dn'"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.npz"), folder)
    level1 = preprocess.InputSpec(unit="level1_dn")
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.npz"), folder, given=level1, max_cloud=0.5, stride=8)
    found = embeddings.read(tmp_path / "a.npz")
    cloud = found["cloud_fraction"]
    assert (cloud == 1).any() and not found["embedded"][cloud > 0.5].any()
    row = int(np.flatnonzero(found["embedded"])[0])
    i, j = divmod(row, 6)
    z = encoder.embed(
        ground[None, i * 8 : i * 8 + 8, j * 8 : j * 8 + 8],
        found["latitude"][row : row + 1],
        found["longitude"][row : row + 1],
        ["2020-05-18T09:41:02"],
        unit="level1_dn",
        sun_elevation=51.5,
    )
    np.testing.assert_allclose(found["vector"][row], z[0], atol=1e-5)
    (folder / f"{stem}_B5.TIF").unlink()
    with pytest.raises(ValueError, match=r"SR_B5 \(near infrared\), which the images lack"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "b.npz"), folder, given=level1)


def test_a_landsat_7_scene_goes_by_its_own_numbers(encoder, ground, tmp_path):
    """B1 of an LE07 product is blue, and its B6 is thermal: the scene embeds as the same bands by colour do."""
    folder, stem = tmp_path / "scene", "LE07_L2SP_190025_20020518_20200916_02_T1_SR"
    folder.mkdir()
    for number, band in zip((1, 2, 3, 4, 5, 7), range(1, 7)):
        write(folder / f"{stem}_B{number}.TIF", ground[..., band : band + 1])
    write(folder / f"{stem}_B6.TIF", ground[..., :1])
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.npz"), folder, stride=8)
    found = embeddings.read(tmp_path / "a.npz")
    assert found["facts"]["input"]["sensor"] == "landsat7"
    colours = tmp_path / "colours.tif"
    write(colours, ground[..., 1:], descriptions=("blue", "green", "red", "nir", "swir1", "swir2"))
    given = preprocess.InputSpec(sensor="landsat7")
    sink = embeddings.Sink(tmp_path / "b.npz")
    embeddings.embed_scene(encoder, sink, colours, given=given, stride=8, time="2002-05-18")
    same = embeddings.read(tmp_path / "b.npz")
    np.testing.assert_allclose(found["vector"], same["vector"], atol=1e-5)


def test_scenes_that_cannot_be_used_are_named(encoder, ground, tmp_path):
    sink = lambda name="x.tif": embeddings.Sink(tmp_path / name)
    with pytest.raises(SceneError, match="nowhere: there is no such"):
        embeddings.embed_scene(encoder, sink(), tmp_path / "nowhere")
    with pytest.raises(SceneError, match="no band files"):
        embeddings.embed_scene(encoder, sink(), tmp_path)
    three = tmp_path / "three.tif"
    write(three, ground[..., 1:4])
    with pytest.raises(SceneError, match="three.tif: has 3 bands and does not tell which"):
        embeddings.embed_scene(encoder, sink(), three)
    named = preprocess.InputSpec(bands=("blue", "green", "red"), fill_missing=True)
    assert embeddings.embed_scene(encoder, sink(), three, given=named)["embedded"] > 0
    told = tmp_path / "told.tif"
    write(told, ground[..., ::-1], descriptions=landsat.BANDS[::-1])
    embeddings.embed_scene(encoder, sink("told.npz"), told, time="2020-05-18")
    straight = tmp_path / "straight.tif"
    write(straight, ground)
    embeddings.embed_scene(encoder, sink("straight.npz"), straight, time="2020-05-18")
    np.testing.assert_array_equal(*(embeddings.read(tmp_path / f"{n}.npz")["vector"] for n in ("told", "straight")))
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no more")
    with pytest.raises(SceneError, match="broken.tif: cannot be read"):
        embeddings.embed_scene(encoder, sink("broken.npz"), tmp_path / "broken.tif")
    with pytest.raises(ValueError, match="stride = 9"):
        embeddings.embed_scene(encoder, sink("y.tif"), straight, stride=9)
    with pytest.raises(ValueError, match="x.tif is there already"):
        sink()
    with pytest.raises(ValueError, match="written as .parquet, .npz, .tif"):
        sink("x.csv")


def test_an_interrupted_scene_goes_on(encoder, scene_file, tmp_path, monkeypatch):
    from geomoe.embeddings import extract

    monkeypatch.setattr(extract, "_BLOCK", 20)
    whole = tmp_path / "whole.npz"
    embeddings.embed_scene(encoder, embeddings.Sink(whole, batch_size=8), scene_file)
    output = tmp_path / "cut.npz"
    calls = []

    def stop(done, total):
        calls.append(done)
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embeddings.embed_scene(encoder, embeddings.Sink(output, batch_size=8, progress=stop), scene_file)
    assert not output.exists() and (tmp_path / "cut.npz.parts").is_dir()
    with pytest.raises(ValueError, match="parts of another run.*pool"):
        embeddings.embed_scene(encoder, embeddings.Sink(output, "cls", batch_size=8), scene_file)
    done = []
    sink = embeddings.Sink(output, batch_size=8, progress=lambda n, total: done.append(n))
    embeddings.embed_scene(encoder, sink, scene_file)
    assert done[0] > 0  # it did not begin anew
    one, two = (embeddings.read(path) for path in (whole, output))
    for name in one:
        if name != "facts":
            np.testing.assert_array_equal(one[name], two[name])


def test_a_folder_of_patches(encoder, ground, tmp_path):
    folder = tmp_path / "patches"
    (folder / "sub").mkdir(parents=True)
    write(folder / "S2A_MSIL2A_20170613T101031_1_1.tif", ground)
    write(folder / "sub" / "later.tif", ground[:, 10:])
    write(folder / "empty.tif", ground * 0)
    (folder / "broken.tif").write_bytes(b"no")
    skipped = []
    sink = embeddings.Sink(tmp_path / "f.npz", dtype="float16")
    counts = embeddings.embed_folder(encoder, sink, folder, skipped=skipped.append)
    assert counts == {"patches": 3, "embedded": 2} and "broken.tif" in str(skipped[0])
    found = embeddings.read(tmp_path / "f.npz")
    assert found["id"].tolist() == ["S2A_MSIL2A_20170613T101031_1_1", "empty", "sub/later"]
    assert str(found["time"][0]) == "2017-06-13T10:10:31" and np.isnat(found["time"][2])
    place = dict(lat=found["latitude"][:1], lon=found["longitude"][:1], time=found["time"][:1])
    z = encoder.embed(ground[None], **place, resize_mode="centre_crop")
    np.testing.assert_allclose(found["vector"][0], z[0], atol=2e-3)
    assert np.isnan(found["vector"][1].astype(float)).all()
    reflectance = tmp_path / "reflectance"
    reflectance.mkdir()
    write(reflectance / "a.tif", landsat.dn_to_reflectance(ground).astype(np.float32))
    given = preprocess.InputSpec(unit="reflectance", resize_mode="centre_crop")
    embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "r.npz"), reflectance, given=given)
    place["time"] = None
    same = encoder.embed(ground[None], **place, resize_mode="centre_crop")
    np.testing.assert_allclose(embeddings.read(tmp_path / "r.npz")["vector"], same, atol=1e-4)


def test_a_dataset_by_command_and_probes_on_its_files(encoder, synthetic_dir, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    command = ["--checkpoint", str(PTH), "--dataset", "synthetic_landsat/small", "--data_dir", str(synthetic_dir)]
    for split in ("train", "test"):
        cli.main([*command, "--split", split, "--output", str(tmp_path / f"{split}.parquet")])
        cli.main([*command, "--split", split, "--output", str(tmp_path / f"{split}.npz")])
    assert "48 embeddings" in capsys.readouterr().out
    a, b = (embeddings.read(tmp_path / f"train.{suffix}") for suffix in ("parquet", "npz"))
    for name in ("id", "latitude", "time", "labels", "vector"):
        np.testing.assert_array_equal(a[name], b[name])
    assert a["facts"]["classes"] == list(synthetic.CLASSES) and a["facts"]["encoder"] == str(PTH)
    for probe in (linear_probe, knn_probe):
        files = probe(tmp_path / "train.parquet", tmp_path / "test.npz", task="multilabel", resamples=0)
        arrays = probe(
            *(embeddings.read_features(tmp_path / f"{s}.npz") for s in ("train", "test")), task="multilabel", resamples=0
        )
        assert files.metrics == arrays.metrics
    with pytest.raises(ValueError, match="for --folder and --scene"):
        cli.main([*command, "--unit", "reflectance", "--output", str(tmp_path / "x.npz")])
    shutil.copy(PTH, tmp_path / "no.npz")
    with pytest.raises(ValueError, match="no file of embeddings"):
        embeddings.read(tmp_path / "no.npz")
    with pytest.raises(FileNotFoundError):
        embeddings.read(tmp_path / "nothing.npz")


def test_real_scenes(encoder, shared, tmp_path):
    level1 = preprocess.InputSpec(unit="level1_dn")
    counts = embeddings.embed_scene(
        encoder, embeddings.Sink(tmp_path / "a.tif"), shared / "landsat_level1_scene", given=level1, stride=8, max_cloud=0.2
    )
    assert counts["patches"] == 76 * 79 and 0.8 < counts["embedded"] / counts["patches"] < 1
    with (
        rasterio.open(tmp_path / "a.tif") as file,
        rasterio.open(shared / "landsat_level1_scene" / "LC80200392015216LGN00_B1.TIF") as source,
    ):
        assert file.crs == source.crs and file.bounds.left == source.bounds.left and file.bounds.top == source.bounds.top

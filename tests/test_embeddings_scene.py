"""Scenes to files: every window in its place, those that do not count marked, and after an interruption."""

import dataclasses
import json
import os

import numpy as np
import pyproj
import pytest
import rasterio
from conftest import PTH
from embedding_tools import ORIGIN, SIZE, make_ground, windows
from geotiffs import write_scene, write_tif

from geomoe import embeddings, landsat
from geomoe.cli import embed as cli
from geomoe.data.preprocess import InputSpec
from geomoe.data.scene import SceneError
from geomoe.embeddings import sink as sinks, tokens


@pytest.fixture(scope="module")
def ground():
    return make_ground()


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory, ground):
    path = tmp_path_factory.mktemp("scene") / "LC08_L2SP_191028_20200518_20200820_02_T1.TIF"
    return write_tif(path, ground, origin=ORIGIN)


@pytest.mark.parametrize("stride", [4, 5])
def test_a_scene_becomes_a_raster_in_its_place(encoder, scene_file, ground, tmp_path, stride):
    output = tmp_path / "scene.tif"
    counts = embeddings.embed_scene(encoder, embeddings.Sink(output, batch_size=16), scene_file, stride=stride)
    expected = windows(encoder, ground, stride)
    assert counts == {"patches": len(expected), "embedded": sum(w[5] is not None for w in expected.values())}
    assert 0 < counts["embedded"] < counts["patches"]
    with rasterio.open(output) as file:
        values = file.read()
        assert file.crs.to_epsg() == 32633 and np.isnan(file.nodata) and file.count == 16
        assert file.res == (30 * stride, 30 * stride)
        for (i, j), (_, _, x, y, _, vector) in expected.items():
            assert file.xy(i, j) == pytest.approx((x, y))
            if vector is None:
                assert np.isnan(values[:, i, j]).all()
            else:
                np.testing.assert_allclose(values[:, i, j], vector, atol=1e-5)
        facts = json.loads(file.tags()["geomoe"])
    assert facts["input"]["unit"] == "collection2_dn" and facts["time"].startswith("2020-05-18")
    assert facts["pool"] == "mean" and facts["encoder"] == str(PTH) and facts["stride"] == stride
    assert not (tmp_path / "scene.tif.parts").exists()


def test_a_scene_becomes_geoparquet(encoder, scene_file, ground, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "scene.parquet"
    embeddings.embed_scene(encoder, embeddings.Sink(output, pool=("mean", "metadata")), scene_file)
    table, expected = embeddings.read(output), windows(encoder, ground)
    for row, (lat, lon, _, _, valid, vector) in enumerate(expected.values()):
        assert (table["latitude"][row], table["longitude"][row]) == pytest.approx((lat, lon))
        assert table["valid_fraction"][row] == pytest.approx(valid) and table["embedded"][row] == (vector is not None)
        if vector is not None:
            np.testing.assert_allclose(table["vector"][row][:16], vector, atol=1e-5)
            np.testing.assert_allclose(table["vector"][row][20], np.sin(np.radians(lat)), atol=1e-6)
    assert table["facts"]["pool"] == "mean+metadata" and table["vector"].shape[1] == 16 + 8
    stored = pq.read_table(output)
    geo = json.loads(stored.schema.metadata[b"geo"])
    geometry = geo["columns"][geo["primary_column"]]
    assert geometry["geometry_types"] == ["Polygon"] and geometry["orientation"] == "counterclockwise"
    assert geo["version"] == "1.1.0" and geometry["encoding"] == "WKB"
    to_wgs84 = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    corners = []
    for row, (i, j) in enumerate(expected):
        wkb = stored["geometry"][row].as_py()
        assert wkb[:13] == b"\1\3\0\0\0\1\0\0\0\5\0\0\0"  # little-endian, a polygon of one ring of five points
        polygon = np.frombuffer(wkb[13:], "<f8").reshape(5, 2)
        x, y = ORIGIN[0] + 30 * 4 * j, ORIGIN[1] - 30 * 4 * i
        ring = [(x, y), (x, y - 240), (x + 240, y - 240), (x + 240, y), (x, y)]  # counterclockwise
        np.testing.assert_allclose(polygon, [to_wgs84.transform(*corner) for corner in ring])  # longitude, then latitude
        corners.append(polygon)
        bounds = [stored["bbox"][row][name].as_py() for name in ("xmin", "ymin", "xmax", "ymax")]
        np.testing.assert_allclose(bounds, [*polygon.min(axis=0), *polygon.max(axis=0)])
    corners = np.concatenate(corners)
    np.testing.assert_allclose(geometry["bbox"], [*corners.min(axis=0), *corners.max(axis=0)])


STEM = "LC08_L1TP_191028_20200518_20200820_02_T1"
MTL = 'PROCESSING_LEVEL = "L1TP"\nDATE_ACQUIRED = 2020-05-18\nSCENE_CENTER_TIME = "09:41:02.1Z"\nSUN_ELEVATION = 51.5\n'


@pytest.fixture
def level1_folder(ground, tmp_path):
    """One file a band, with 65535 for no data, clouds in the lower right, and a metadata file."""
    image = np.where(ground == 0, 65535, ground).astype(np.uint16)
    qa = np.zeros((44, 44), int)
    qa[20:, 20:] = 1 << 3
    return write_scene(tmp_path / "scene", STEM, image, qa=qa, mtl=MTL, origin=ORIGIN, nodata=65535)


def test_clouds_sun_time_and_nodata_come_from_the_files(encoder, ground, level1_folder, tmp_path):
    with pytest.raises(SceneError, match="unit='collection2_dn' was given, but by its name and metadata it is 'level1_dn'"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.npz"), level1_folder, spec=InputSpec("collection2_dn"))
    level1 = InputSpec(unit="level1_dn")
    run = dict(spec=level1, stride=8)
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.npz"), level1_folder, max_cloud=0.5, **run)
    table = embeddings.read(tmp_path / "a.npz")
    share = np.zeros((6, 6))
    clouds = np.zeros((48, 48))
    clouds[20:44, 20:44] = 1
    padded = np.zeros((48, 48), bool)
    padded[:44, :44] = (ground != 0).all(axis=-1)
    for i in range(6):
        for j in range(6):
            share[i, j] = clouds[8 * i : 8 * i + 8, 8 * j : 8 * j + 8].mean()
    valid = padded.reshape(6, 8, 6, 8).mean(axis=(1, 3))
    np.testing.assert_allclose(table["cloud_fraction"], share.ravel())
    np.testing.assert_allclose(table["valid_fraction"], valid.ravel())
    np.testing.assert_array_equal(table["embedded"], ((share <= 0.5) & (valid >= 0.5)).ravel())
    assert (table["time"] == np.datetime64("2020-05-18T09:41:02")).all()
    row = int(np.flatnonzero(table["embedded"])[0])
    i, j = divmod(row, 6)
    z = encoder.embed(
        ground[None, i * 8 : i * 8 + 8, j * 8 : j * 8 + 8],
        table["latitude"][row : row + 1],
        table["longitude"][row : row + 1],
        ["2020-05-18T09:41:02"],
        unit="level1_dn",
        sun_elevation=51.5,
    )
    np.testing.assert_allclose(table["vector"][row], z[0], atol=1e-5)
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "b.npz"), level1_folder, min_valid=0.9, **run)
    np.testing.assert_array_equal(embeddings.read(tmp_path / "b.npz")["embedded"], (valid >= 0.9).ravel())
    higher = dataclasses.replace(level1, sun_elevation=80.0)
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "c.npz"), level1_folder, spec=higher, stride=8)
    assert np.abs(embeddings.read(tmp_path / "c.npz")["vector"][row] - z[0]).max() > 1e-3
    (level1_folder / f"{STEM}_B5.TIF").unlink()
    with pytest.raises(ValueError, match=r"SR_B5 \(near infrared\), which the images lack"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "d.npz"), level1_folder, spec=level1)


def test_the_time_of_acquisition(encoder, ground, tmp_path):
    tagged = write_tif(tmp_path / "scene.tif", ground, tags={"TIFFTAG_DATETIME": "2021:03:04 05:06:07"})
    times = {}
    for name, time in (("tag", None), ("text", "2020-05-18 10:30:00Z"), ("none", np.datetime64("NaT"))):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / f"{name}.npz"), tagged, stride=8, time=time)
        times[name] = str(embeddings.read(tmp_path / f"{name}.npz")["time"][0])
    assert times == {"tag": "2021-03-04T05:06:07", "text": "2020-05-18T10:30:00", "none": "NaT"}
    with pytest.raises(ValueError, match="'Monday' is no time"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "x.npz"), tagged, time="Monday")


def test_a_landsat_7_scene_goes_by_its_own_numbers(encoder, ground, tmp_path):
    """B1 of an LE07 product is blue, and its B6 is thermal: the scene embeds as the same bands by colour do."""
    stem = "LE07_L2SP_190025_20020518_20200916_02_T1_SR"
    folder = write_scene(tmp_path / "scene", stem, ground[..., 1:], numbers=(1, 2, 3, 4, 5, 7), origin=ORIGIN)
    write_tif(folder / f"{stem}_B6.TIF", ground[..., :1], origin=ORIGIN)
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "a.npz"), folder, stride=8)
    table = embeddings.read(tmp_path / "a.npz")
    assert table["facts"]["input"]["sensor"] == "landsat7"
    names = ("blue", "green", "red", "nir", "swir1", "swir2")
    colours = write_tif(tmp_path / "colours.tif", ground[..., 1:], origin=ORIGIN, descriptions=names)
    options = dict(spec=InputSpec(sensor="landsat7"), stride=8, time="2002-05-18")
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "b.npz"), colours, **options)
    np.testing.assert_allclose(table["vector"], embeddings.read(tmp_path / "b.npz")["vector"], atol=1e-5)
    row = int(np.flatnonzero(table["embedded"])[0])
    i, j = divmod(row, 6)
    window = ground[None, i * 8 : i * 8 + 8, j * 8 : j * 8 + 8, 1:]
    location = (table["latitude"][row : row + 1], table["longitude"][row : row + 1])
    z = encoder.embed(window, *location, ["2002-05-18"], sensor="landsat7")
    np.testing.assert_allclose(table["vector"][row], z[0], atol=1e-5)


def test_bands_go_by_their_names(encoder, ground, tmp_path):
    options = dict(stride=8, time="2020-05-18")
    straight = write_tif(tmp_path / "straight.tif", ground)
    backwards = write_tif(tmp_path / "backwards.tif", ground[..., ::-1], descriptions=landsat.BANDS[::-1])
    for path in (straight, backwards):
        embeddings.embed_scene(encoder, embeddings.Sink(path.with_suffix(".npz")), path, **options)
    vectors = [embeddings.read(path.with_suffix(".npz"))["vector"] for path in (straight, backwards)]
    np.testing.assert_array_equal(*vectors)
    three = write_tif(tmp_path / "three.tif", ground[..., 1:4])
    with pytest.raises(SceneError, match="three.tif: has 3 bands and does not say which"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "x.tif"), three)
    named = InputSpec(bands=("blue", "green", "red"), fill_missing=True)
    embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "three.npz"), three, spec=named, **options)
    assert np.nanmax(np.abs(embeddings.read(tmp_path / "three.npz")["vector"] - vectors[0])) > 1e-3


@pytest.mark.parametrize("name", ["a.tif", "a.parquet", "a.npz"])
def test_a_scene_without_coordinates(encoder, ground, tmp_path, name):
    """Its embeddings have no location, and no item beside them says one."""
    import warnings

    scene = write_tif(tmp_path / "scene.tif", ground, crs=None, descriptions=landsat.BANDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / name), scene, stride=8, time="2020-05-18")
    table = embeddings.read(tmp_path / name)
    assert np.isnan(table["latitude"]).all() and table["embedded"].sum() > 20
    z = encoder.embed(ground[None, 16:24, 16:24], time=["2020-05-18"])
    np.testing.assert_allclose(table["vector"][2 * 6 + 2], z[0], atol=1e-5)
    assert not (tmp_path / f"{name}.stac.json").exists()


def test_options_without_a_meaning_are_named(encoder, scene_file, tmp_path):
    sink = lambda name: embeddings.Sink(tmp_path / name)
    for options, message in (
        (dict(stride=SIZE + 1), "stride = 9"),
        (dict(min_valid=1.5), "min_valid = 1.5"),
        (dict(max_cloud=0.5), "no quality band"),
        (dict(spec=InputSpec(unit="level1_dn")), "unit='level1_dn' was given, but"),
    ):
        with pytest.raises(ValueError, match=message):
            embeddings.embed_scene(encoder, sink("x.tif"), scene_file, **options)
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_an_interrupted_scene_goes_on(encoder, scene_file, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "BLOCK", 20)
    whole = tmp_path / "whole.npz"
    embeddings.embed_scene(encoder, embeddings.Sink(whole, batch_size=8), scene_file)
    output = tmp_path / "cut.npz"

    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embeddings.embed_scene(encoder, embeddings.Sink(output, batch_size=8, progress=stop), scene_file)
    assert not output.exists() and (tmp_path / "cut.npz.parts").is_dir()
    with pytest.raises(ValueError, match="parts of another run.*pool"):
        embeddings.embed_scene(encoder, embeddings.Sink(output, "cls", batch_size=8), scene_file)
    with pytest.raises(ValueError, match="parts of another run.*min_valid"):
        embeddings.embed_scene(encoder, embeddings.Sink(output, batch_size=8), scene_file, min_valid=0.9)
    done = []
    sink = embeddings.Sink(output, batch_size=8, progress=lambda n, total: done.append(n))
    embeddings.embed_scene(encoder, sink, scene_file)
    assert done[0] > 0  # it did not begin anew
    one, two = (embeddings.read(path) for path in (whole, output))
    for name in one:
        if name != "facts":
            np.testing.assert_array_equal(one[name], two[name])


def test_parts_by_other_clouds_or_masks_are_not_gone_on_with(encoder, level1_folder, tmp_path, monkeypatch):
    def stop(done, total):
        if done == total:
            raise KeyboardInterrupt

    monkeypatch.setattr(sinks, "BLOCK", 1)  # a part for each row of windows
    sink = embeddings.Sink(tmp_path / "x.npz", batch_size=8, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        embeddings.embed_scene(encoder, sink, level1_folder, max_cloud=0.5)
    for name, options in (("max_cloud", dict(max_cloud=0.25)), ("mask", dict(max_cloud=0.5, mask=("cloud",)))):
        with pytest.raises(ValueError, match=rf"parts of another run \({name} differ\)"):
            embeddings.embed_scene(encoder, dataclasses.replace(sink, progress=lambda *_: None), level1_folder, **options)


def test_real_scenes(encoder, shared, tmp_path):
    level1, scene = InputSpec(unit="level1_dn"), shared / "landsat_level1_scene"
    sink = embeddings.Sink(tmp_path / "a.tif")
    counts = embeddings.embed_scene(encoder, sink, scene, spec=level1, stride=8, max_cloud=0.2)
    assert counts["patches"] == 76 * 79 and 0.8 < counts["embedded"] / counts["patches"] < 1
    with rasterio.open(tmp_path / "a.tif") as file, rasterio.open(scene / "LC80200392015216LGN00_B1.TIF") as source:
        assert file.crs == source.crs and file.bounds.left == source.bounds.left and file.bounds.top == source.bounds.top


def test_masked_classes_do_not_speak(encoder, ground, level1_folder, tmp_path):
    """Clouds that the quality band tells, whatever they look like, as if the file held no data there."""
    run = dict(spec=InputSpec(), stride=8)
    read = lambda name, folder, **options: (
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / name), folder, **run, **options),
        embeddings.read(tmp_path / name),
    )[1]
    masked = read("a.npz", level1_folder, mask=("cloud", "shadow"))
    cut = np.where(ground == 0, 65535, ground).astype(np.uint16)
    cut[20:, 20:] = 65535
    emptied = write_scene(tmp_path / "emptied", STEM, cut, mtl=MTL, origin=ORIGIN, nodata=65535)
    by_file = read("b.npz", emptied)
    np.testing.assert_array_equal(masked["embedded"], by_file["embedded"])
    np.testing.assert_allclose(masked["valid_fraction"], by_file["valid_fraction"])
    np.testing.assert_allclose(masked["vector"], by_file["vector"], atol=1e-5)
    plain = read("c.npz", level1_folder)
    both = masked["embedded"] & plain["embedded"] & (masked["valid_fraction"] < plain["valid_fraction"])
    assert both.any() and np.abs(masked["vector"] - plain["vector"])[both].max() > 1e-3
    for options, message in (
        (dict(mask=("fog",)), "'fog' is no class that a quality band QA_PIXEL tells"),
        (dict(mask=("cloud",), spec=InputSpec(nodata="published")), "mask = cloud would be ignored"),
        (dict(mask="cloud"), "mask = 'cloud' must be a sequence of classes"),
    ):
        with pytest.raises(ValueError, match=message):
            embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "x.npz"), level1_folder, **options)
    with pytest.raises(SceneError, match="has no quality band .* to mask cloud by"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "x.npz"), emptied, mask=("cloud",))


@pytest.mark.parametrize("resolution", ["window", "token"])
def test_a_run_does_not_go_on_with_a_scene_that_has_changed(encoder, ground, tmp_path, resolution, monkeypatch):
    """Files fetched again, others of the same name and grid, another hour: nothing of the new may stand beside the old."""
    monkeypatch.setattr(sinks, "BLOCK", 8)
    monkeypatch.setattr(tokens, "_WINDOWS_OF_PART", 8)
    stem, date = "LC08_L2SP_191028_20200518_20200820_02_T1", "DATE_ACQUIRED = 2020-05-18"
    scene = write_scene(tmp_path / "s", stem, ground, prefix="SR_B", origin=ORIGIN, mtl=date)

    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    output = tmp_path / "o.tif"
    with pytest.raises(KeyboardInterrupt):
        embeddings.embed_scene(encoder, embeddings.Sink(output, progress=stop), scene, resolution=resolution)
    for changed in (next(scene.glob("*_MTL.txt")), next(scene.glob("*_SR_B4.TIF"))):
        before = changed.stat()
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        with pytest.raises(ValueError, match=r"parts of another run \(files_sha256 differ\)"):
            embeddings.embed_scene(encoder, embeddings.Sink(output), scene, resolution=resolution)
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_values_of_no_unit_name_the_scene_and_the_rows(encoder, ground, tmp_path):
    reflectance = np.where(ground == 0, -9999, ground * 0.0000275 - 0.2).astype(np.float32)
    scene = write_tif(tmp_path / "mine.tif", reflectance, origin=ORIGIN)
    with pytest.raises(SceneError, match="mine, rows 0 to .*: values from -9999 .* are no reflectance.*; give .* NaN"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "o.tif"), scene, spec=InputSpec(unit="reflectance"))


def test_the_time_that_the_command_is_given(ground, tmp_path):
    path = write_tif(tmp_path / "s.tif", ground[20:28, 20:28])
    command = ["--checkpoint", str(PTH), "--scene", str(path), "--output", str(tmp_path / "o.npz")]
    cli.main([*command, "--time", "2020-05-18T10:00:00"])
    assert str(embeddings.read(tmp_path / "o.npz")["time"][0]) == "2020-05-18T10:00:00"


@pytest.mark.parametrize("resolution", ["window", "token"])
def test_a_scene_is_z_scored_by_its_own_statistics_where_asked(
    encoder, ground, level1_folder, tmp_path, monkeypatch, resolution
):
    """By those of all pixels that hold data and are not masked, read some rows at a time."""
    monkeypatch.setattr("geomoe.embeddings.windows._STRIP", 5)
    options = dict(mask=("cloud",), resolution=resolution)
    read = lambda name: rasterio.open(level1_folder / f"{STEM}_{name}.TIF").read(1)
    values, clouds = np.stack([read(f"B{i}") for i in range(1, 8)], axis=-1), read("QA_PIXEL") == 1 << 3
    pixels = values[(values != 65535).all(axis=-1) & ~clouds].astype(np.float64)
    assert clouds.any() and len(pixels) < (~clouds).sum()
    scale, offset = 2e-5 / np.sin(np.radians(51.5)) / 0.0000275, (0.2 - 0.1 / np.sin(np.radians(51.5))) / 0.0000275
    mean, std = scale * pixels.mean(axis=0) + offset, scale * pixels.std(axis=0)  # of Collection 2 digital numbers
    given = {"mean": mean.tolist(), "std": std.tolist(), "unit": "collection2_dn"}
    maps = []
    for i, statistics in enumerate(("computed", given)):
        sink = embeddings.Sink(tmp_path / f"{i}.tif")
        embeddings.embed_scene(encoder, sink, level1_folder, spec=InputSpec(statistics=statistics), **options)
        with rasterio.open(sink.output) as file:
            maps.append((file.read(), json.loads(file.tags()["geomoe"])["input"]))
    np.testing.assert_allclose(maps[0][0], maps[1][0], atol=1e-4)
    assert np.isfinite(maps[0][0]).any()
    np.testing.assert_allclose(maps[0][1]["statistics"]["mean"], given["mean"], rtol=1e-6)
    assert maps[0][1]["statistics"]["source"] == f"computed:{STEM}"
    assert maps[0][1]["statistics_unit"] == "collection2_dn" and maps[0][1]["unit"] == "level1_dn"


def test_a_scene_without_statistics_of_its_own_is_named(encoder, ground, tmp_path):
    path = write_tif(tmp_path / "LC08_L2SP_191028_20200518_20200820_02_T1.TIF", np.full_like(ground, 9000), origin=ORIGIN)
    with pytest.raises(SceneError, match="'computed' of LC08_L2SP_.*: all pixels have one number, 9000, in band 1"):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / "s.npz"), path, spec=InputSpec(statistics="computed"))
    assert os.listdir(tmp_path) == [path.name]


def test_the_command_takes_statistics_of_the_scene_or_of_a_file(encoder, scene_file, ground, tmp_path):
    encoder.save(tmp_path / "e.safetensors")
    holds = ground[(ground != 0).all(axis=-1)].astype(np.float64)
    (tmp_path / "s.json").write_text(json.dumps({"mean": holds.mean(axis=0).tolist(), "std": holds.std(axis=0).tolist()}))
    run = lambda output, *more: cli.main(
        [f"--checkpoint={tmp_path / 'e.safetensors'}", f"--scene={scene_file}", f"--output={tmp_path / output}", *more]
    )
    for output, said in (("own.npz", "computed"), ("file.npz", str(tmp_path / "s.json"))):
        run(output, f"--statistics={said}")
    run("encoder.npz")
    own, file, by_encoder = (embeddings.read(tmp_path / f"{name}.npz")["vector"] for name in ("own", "file", "encoder"))
    np.testing.assert_allclose(own, file, atol=1e-5)
    assert np.nanmax(np.abs(own - by_encoder)) > 1e-2
    (tmp_path / "bad.json").write_text("[1, 2]")
    for said, message in (
        ("computd", "there is no file of statistics computd"),
        (str(tmp_path / "bad.json"), "bad.json is no file of"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run("x.npz", f"--statistics={said}")

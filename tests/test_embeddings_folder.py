"""Folders of patches to files."""

import os

import numpy as np
import pytest
from embedding_tools import make_ground
from geotiffs import write_tif

from geomoe import embeddings, landsat
from geomoe.cli import embed as cli
from geomoe.data.preprocess import InputSpec
from geomoe.embeddings import sink as sinks

STAMPED = "S2A_MSIL2A_20170613T101031_1_1"


@pytest.fixture(scope="module")
def ground():
    return make_ground()


@pytest.fixture
def folder(ground, tmp_path):
    tags = {"TIFFTAG_DATETIME": "2021:03:04 05:06:07"}
    folder = tmp_path / "patches"
    write_tif(folder / f"{STAMPED}.tif", ground, tags=tags)
    write_tif(folder / "sub" / "later.tif", ground[:, 10:], tags=tags)
    write_tif(folder / "sub" / "timeless.tif", ground[:30])
    write_tif(folder / "empty.tif", ground * 0)
    (folder / "broken.tif").write_bytes(b"no")
    return folder


def embed_one(encoder, image, table, row, **options):
    location = [table[name][row : row + 1] for name in ("latitude", "longitude", "time")]
    return encoder.embed(image[None], *location, resize_mode="centre_crop", **options)[0]


def test_a_folder_of_patches(encoder, ground, folder, tmp_path, monkeypatch):
    skipped = []
    sink = embeddings.Sink(tmp_path / "f.npz", dtype="float16")
    counts = embeddings.embed_folder(encoder, sink, folder, skipped=skipped.append)
    assert counts == {"patches": 4, "embedded": 3, "skipped": 1} and [error.kind for error in skipped] == ["unreadable image"]
    table = embeddings.read(tmp_path / "f.npz")
    assert table["id"].tolist() == [STAMPED, "empty", "sub/later", "sub/timeless"] and table["vector"].dtype == np.float32
    # A stamp in the name is believed before the time of writing.
    assert table["time"].astype(str).tolist() == ["2017-06-13T10:10:31", "NaT", "2021-03-04T05:06:07", "NaT"]
    middle = ground[18:26, 18:26]  # the 8 x 8 of the model, of 44 x 44
    np.testing.assert_allclose(table["valid_fraction"][0], (middle != 0).all(axis=-1).mean(), rtol=1e-6)
    for row, image in ((0, ground), (2, ground[:, 10:]), (3, ground[:30])):
        np.testing.assert_allclose(table["vector"][row], embed_one(encoder, image, table, row), atol=2e-3)
    assert np.isnan(table["vector"][1].astype(float)).all() and not table["embedded"][1]
    monkeypatch.setattr(sinks, "BLOCK", 2)
    seen = []
    sink = embeddings.Sink(tmp_path / "g.npz", dtype="float16", batch_size=1, progress=lambda done, total: seen.append(done))
    embeddings.embed_folder(encoder, sink, folder)
    np.testing.assert_array_equal(embeddings.read(tmp_path / "g.npz")["id"], table["id"])
    assert seen == [0, 1, 2, 3, 4, 5]


def test_other_units_sensors_and_sizes(encoder, ground, tmp_path):
    write_tif(tmp_path / "reflectance" / "a.tif", landsat.dn_to_reflectance(ground).astype(np.float32))
    write_tif(tmp_path / "six" / "a.tif", ground[..., 1:])
    byte = np.clip(ground // 256, 1, 255).astype(np.uint8)
    write_tif(tmp_path / "byte" / "a.tif", byte)
    for name, options, image, tolerance in (
        ("reflectance", dict(unit="reflectance"), ground, 1e-4),
        ("six", dict(sensor="landsat7"), ground[..., 1:], 1e-6),
        ("byte", dict(unit="uint8", uint8_range=(0.1, 0.3)), byte, 1e-6),
    ):
        spec = InputSpec(resize_mode="centre_crop", **options)
        embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / f"{name}.npz"), tmp_path / name, spec=spec)
        table = embeddings.read(tmp_path / f"{name}.npz")
        described = {} if name == "reflectance" else options
        expected = embed_one(encoder, image, table, 0, **described)
        np.testing.assert_allclose(table["vector"][0], expected, atol=tolerance, err_msg=name)
    assert embeddings.read(tmp_path / "byte.npz")["facts"]["input"]["uint8_range"] == [0.1, 0.3]
    resized = InputSpec(resize_mode="resize", sensor="landsat7")
    embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "r.npz"), tmp_path / "six", spec=resized)
    cropped, whole = (embeddings.read(tmp_path / f"{name}.npz")["vector"] for name in ("six", "r"))
    assert np.abs(cropped - whole).max() > 1e-3


def test_names_of_bands_go_by_the_numbers_of_each_files_sensor(encoder, ground, tmp_path):
    """Six bands backwards, of files whose names say Landsat 7."""
    names = ["SR_B7", "SR_B5", "SR_B4", "SR_B3", "SR_B2", "SR_B1"]
    for name in ("LE07_L2SP_190025_20020518_20200916_02_T1", "LE07_L2SP_190026_20020518_20200916_02_T1"):
        write_tif(tmp_path / "in" / f"{name}.tif", ground[..., :0:-1])
    embeddings.embed_folder(
        encoder, embeddings.Sink(tmp_path / "x.npz"), tmp_path / "in", spec=InputSpec(resize_mode="centre_crop", bands=names)
    )
    table = embeddings.read(tmp_path / "x.npz")
    location, options = (table["latitude"][:1], table["longitude"][:1]), dict(resize_mode="centre_crop", sensor="landsat7")
    (expected,) = encoder.embed(ground[None, ..., 1:], *location, ["2002-05-18"], **options)
    np.testing.assert_allclose(table["vector"], [expected, expected], atol=2e-5)


def test_an_image_whose_middle_is_empty_is_marked(encoder, ground, tmp_path):
    """The model is given the middle alone, unless the whole is resized."""
    hollow = np.pad(ground[:8, :8] * 0, ((8, 8), (8, 8), (0, 0)), constant_values=9000)
    write_tif(tmp_path / "in" / "hollow.tif", hollow)
    for mode, embedded, valid in (("centre_crop", 0, 0.0), ("resize", 1, 8 / 9)):
        sink = embeddings.Sink(tmp_path / f"{mode}.npz")
        counts = embeddings.embed_folder(encoder, sink, tmp_path / "in", spec=InputSpec(resize_mode=mode))
        assert counts == {"patches": 1, "embedded": embedded, "skipped": 0}
        assert embeddings.read(tmp_path / f"{mode}.npz")["valid_fraction"][0] == pytest.approx(valid)


def test_files_of_which_the_middle_alone_is_embedded_are_named(encoder, ground, tmp_path, capsys):
    """Of 9 x 8 the crop of 8 x 8 leaves out a ninth, of 8 x 11 and of 4 x 6, which is enlarged first, more than a fifth."""
    for name, image in {"a": ground[:9, :8], "b": ground[:8, :11], "c": ground[:4, :6], "d": ground}.items():
        write_tif(tmp_path / "in" / f"{name}.tif", image)
    said = []
    cropped = lambda path, size: said.append((os.path.basename(path), size))
    embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "crop.npz"), tmp_path / "in", cropped=cropped)
    assert said == [("b.tif", (8, 11)), ("c.tif", (4, 6)), ("d.tif", (44, 44))]
    whole = InputSpec(resize_mode="resize")
    embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "r.npz"), tmp_path / "in", spec=whole, cropped=cropped)
    assert len(said) == 3
    encoder.save(tmp_path / "e.safetensors")
    cli.main([f"--checkpoint={tmp_path / 'e.safetensors'}", f"--folder={tmp_path / 'in'}", f"--output={tmp_path / 'o.npz'}"])
    out = " ".join(capsys.readouterr().err.split())
    assert out.count("note:") == 1 and "b.tif has 8 x 11 pixels, of which the middle 8 x 8 are embedded" in out


def test_folders_that_cannot_be_used_are_named(encoder, tmp_path):
    sink = embeddings.Sink(tmp_path / "f.npz")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        embeddings.embed_folder(encoder, sink, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no .tif file"):
        embeddings.embed_folder(encoder, sink, tmp_path)
    with pytest.raises(ValueError, match="is for scenes; take .parquet or .npz"):
        embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "f.tif"), tmp_path)
    with pytest.raises(ValueError, match="every token"):
        embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "f.npz", "tokens"), tmp_path)
    (tmp_path / "there.npz").touch()
    for path, options, message in (
        ("there.npz", {}, "there.npz is there already"),
        ("x.csv", {}, "written as .parquet, .npz, .tif"),
        ("x.npz", dict(pool="median"), "'median' is not one of"),
        ("x.npz", dict(dtype="int4"), "dtype = 'int4'"),
    ):
        with pytest.raises(ValueError, match=message):
            embeddings.Sink(tmp_path / path, **options)


def test_a_folder_of_which_nothing_can_be_used(encoder, ground, tmp_path):
    write_tif(tmp_path / "in" / "a.tif", ground[..., :3])
    (tmp_path / "in" / "b.tif").write_bytes(b"no")
    for name in ("x.npz", "x.parquet"):
        with pytest.raises(
            ValueError, match="none of the 2 GeoTIFFs of .*in can be used; the first: .*a.tif: wrong band count"
        ):
            embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / name), tmp_path / "in")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_names_that_are_no_text_and_linked_folders(encoder, ground, tmp_path):
    pytest.importorskip("pyarrow")
    write_tif(tmp_path / "elsewhere" / "x.tif", ground)
    (tmp_path / "elsewhere" / "x.tif").rename(tmp_path / "elsewhere" / os.fsdecode(b"Z\xfcrich.TIF"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "x.parquet"), tmp_path / "in")
    assert embeddings.read(tmp_path / "x.parquet")["id"].tolist() == [r"link/Z\xfcrich"]


def test_a_resumed_folder_is_the_same_folder(encoder, ground, tmp_path, monkeypatch):
    """As many files, of which one is another: the parts of the first run are not taken."""
    monkeypatch.setattr(sinks, "BLOCK", 2)
    for name in "abcd":
        write_tif(tmp_path / "in" / f"{name}.tif", ground)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    def run(**options):
        sink = embeddings.Sink(tmp_path / "x.npz", batch_size=2, **options)
        return embeddings.embed_folder(encoder, sink, tmp_path / "in")

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    (tmp_path / "in" / "a.tif").rename(tmp_path / "in" / "e.tif")
    with pytest.raises(ValueError, match=r"parts of another run \(files_sha256 differ\); remove the folder"):
        run()
    (tmp_path / "in" / "e.tif").rename(tmp_path / "in" / "a.tif")
    seen = []
    assert run(progress=lambda done, total: seen.append(done))["patches"] == 4 and seen[0] == 2


def test_a_folder_is_z_scored_by_the_statistics_of_its_files_where_asked(encoder, ground, folder, tmp_path):
    images = [ground, ground[:, 10:], ground[:30]]
    pixels = np.concatenate([image[(image != 0).all(axis=-1)] for image in images]).astype(np.float64)
    given = {"mean": pixels.mean(axis=0).tolist(), "std": pixels.std(axis=0).tolist()}
    spec = InputSpec(resize_mode="centre_crop", statistics="computed")
    embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "f.npz"), folder, spec=spec)
    table = embeddings.read(tmp_path / "f.npz")
    for row, image in ((0, images[0]), (2, images[1]), (3, images[2])):
        np.testing.assert_allclose(table["vector"][row], embed_one(encoder, image, table, row, statistics=given), atol=2e-5)
    np.testing.assert_allclose(table["facts"]["input"]["statistics"]["std"], given["std"])
    write_tif(folder / "zz_LE07_L2SP_190025_20020518_20200916_02_T1.tif", ground[..., 1:])
    embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "g.npz"), folder, spec=spec)
    more = np.concatenate([pixels, ground[(ground[..., 1:] != 0).all(axis=-1)].astype(np.float64)])
    record = embeddings.read(tmp_path / "g.npz")["facts"]["input"]["statistics"]
    np.testing.assert_allclose(record["mean"], [pixels[:, 0].mean(), *more[:, 1:].mean(axis=0)])
    for path in folder.glob("**/*.tif"):
        path.write_bytes(b"no")
    with pytest.raises(ValueError, match="none of the 6 GeoTIFFs .* can be used"):
        embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "h.npz"), folder, spec=spec)


def test_bytes_of_six_bands_are_z_scored_by_their_own_statistics(encoder, ground, tmp_path):
    byte = np.clip(ground[..., 1:] // 256, 1, 255).astype(np.uint8)
    write_tif(tmp_path / "in" / "a.tif", byte)
    spec = InputSpec(resize_mode="centre_crop", unit="uint8", sensor="landsat5", statistics="computed")
    embeddings.embed_folder(encoder, embeddings.Sink(tmp_path / "f.npz"), tmp_path / "in", spec=spec)
    table = embeddings.read(tmp_path / "f.npz")
    expected = embed_one(encoder, byte, table, 0, unit="uint8", sensor="landsat5", statistics="computed")
    np.testing.assert_allclose(table["vector"][0], expected, atol=2e-5)

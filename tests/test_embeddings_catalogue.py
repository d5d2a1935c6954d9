"""Many scenes: each to its file, resumed, failures listed; by Beam the same."""

import csv
import dataclasses
import os
import pathlib

import numpy as np
import pytest
import rasterio
from conftest import PTH
from geotiffs import pixels, write_scene, write_tif

from geomoe import embeddings, landsat
from geomoe.cli import catalogue as cli
from geomoe.data.preprocess import InputSpec
from geomoe.data.product_files import Quality, SceneFiles
from geomoe.embeddings import catalogue
from geomoe.embeddings.catalogue import CatalogueJob, embed_scenes
from geomoe.embeddings.results import read_results
from geomoe.embeddings.search import SearchIndex
from geomoe.landsat import Statistics
from geomoe.pretrained import load

COUNTS = {"patches": 4, "embedded": 4}


@pytest.fixture
def scenes(tmp_path):
    paths = [str(write_tif(tmp_path / "in" / f"s{i}.tif", pixels(seed=i, size=(20, 30)))) for i in range(3)]
    return [*paths[:2], str(tmp_path / "in" / "gone.tif"), paths[2]]


def tables(results):
    return [embeddings.read(result.output) for result in results if result.output]


def test_each_scene_has_its_file_and_failures_are_listed(tmp_path, scenes):
    job = CatalogueJob(str(PTH), str(tmp_path / "out"), ".npz", options={"stride": 8})
    done = []
    results = embed_scenes(job, scenes, progress=lambda count, total: done.append((count, total)))
    assert [(r.scene, r.patches, bool(r.error)) for r in results] == [
        ("s0", 12, False),
        ("s1", 12, False),
        ("gone", 0, True),
        ("s2", 12, False),
    ]
    assert "gone.tif: there is no such file" in results[2].error and done[-1] == (4, 4)
    with open(tmp_path / "out" / "scenes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scene"] for row in rows] == ["s0", "s1", "gone", "s2"] and rows[0]["embedded"] == "11"
    vectors = [table["vector"] for table in tables(results)]
    assert len(vectors) == 3 and not np.allclose(vectors[0], vectors[1])
    times = [(tmp_path / "out" / f"s{i}.npz").stat().st_mtime_ns for i in range(3)]
    write_tif(tmp_path / "in" / "gone.tif", pixels(seed=9, size=(20, 30)))
    again = embed_scenes(job, scenes)
    assert [r.embedded for r in again] == [11] * 4
    assert times == [(tmp_path / "out" / f"s{i}.npz").stat().st_mtime_ns for i in range(3)]  # not embedded again
    with open(scenes[1], "ab") as file:
        file.write(b" ")  # a scene that has changed
    changed = embed_scenes(job, scenes)
    assert [bool(r.error) for r in changed] == [False, True, False, False] and "s1.npz is there already" in changed[1].error
    for other in (dataclasses.replace(job, pool="cls"), dataclasses.replace(job, options={"stride": 4})):
        assert all("is there already" in r.error for r in embed_scenes(other, scenes))


def test_each_scene_is_z_scored_by_its_own_statistics_where_asked(tmp_path, scenes):
    job = CatalogueJob(str(PTH), str(tmp_path / "out"), ".npz", spec=InputSpec(statistics="computed"))
    inputs = [table["facts"]["input"] for table in tables(embed_scenes(job, scenes))]
    for i, made in enumerate(inputs):
        image = pixels(seed=i, size=(20, 30)).reshape(-1, 7)
        np.testing.assert_allclose(made["statistics"]["mean"], image.mean(axis=0))
        np.testing.assert_allclose(made["statistics"]["std"], image.std(axis=0))
    other = dataclasses.replace(load(PTH), statistics=Statistics((9000.0,) * 7, (500.0,) * 7, "others"))
    other.save(tmp_path / "other.safetensors")  # the same weights
    for another in (dict(spec=InputSpec()), dict(checkpoint=str(tmp_path / "other.safetensors"))):
        results = embed_scenes(dataclasses.replace(job, **another), scenes)
        assert all("is there already" in result.error for result in results if "gone" not in result.scene)


def test_the_command_lists_what_failed(tmp_path, scenes, capsys):
    from geomoe.cli import catalogue

    (tmp_path / "scenes.txt").write_text("\ufeff# two\n" + "\n".join(scenes[1:3]) + "\n\n")
    arguments = ["--checkpoint", str(PTH), "--scenes", str(tmp_path / "scenes.txt"), "--output", str(tmp_path / "out")]
    catalogue.main([*arguments, "--format", ".npz", "--stride", "8", "--pool", "cls"])
    out = capsys.readouterr().out
    assert "1 scenes embedded, 1 failed" in out and "gone.tif: there is no such file" in out
    (tmp_path / "gone.txt").write_text(f"{scenes[2]}\n")
    arguments[3] = str(tmp_path / "gone.txt")
    with pytest.raises(ValueError, match="none of the 1 scenes could be embedded"):
        catalogue.main(arguments)
    table = embeddings.read(tmp_path / "out" / "s1.npz")
    assert table["facts"]["pool"] == "cls" and table["facts"]["stride"] == 8


def test_the_command_writes_maps_of_tokens_of_files_with_bands_in_another_order(tmp_path):
    from geomoe.cli import catalogue

    order = [3, 0, 1, 2, 4, 5, 6]
    bands = [f"SR_B{i + 1}" for i in order]
    ground = pixels(size=(20, 30))
    for name, numbers in (("plain", ground), ("other", ground[..., order])):
        path = write_tif(tmp_path / f"{name}.tif", numbers)
        (tmp_path / f"{name}.txt").write_text(f"{path}\n")
        options = ["--bands", ",".join(bands)] if name == "other" else []
        arguments = ["--checkpoint", str(PTH), "--scenes", str(tmp_path / f"{name}.txt"), "--output", str(tmp_path / name)]
        catalogue.main([*arguments, "--format", ".tif", "--resolution", "token", "--interleave", "band", *options])
    plain, other = (embeddings.read(tmp_path / name / f"{name}.tif")["vector"] for name in ("plain", "other"))
    np.testing.assert_allclose(plain, other, atol=1e-5)
    assert len(plain) == 5 * 8 and np.isfinite(plain).mean() > 0.5
    with rasterio.open(tmp_path / "plain" / "plain.tif") as file:
        assert file.interleaving.value == "BAND"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"ending": ".csv"}, "embeddings are written as"),
        ({"pool": "maen"}, "'maen' is not one of"),
        ({"dtype": "int4"}, "int4"),
        ({"interleave": "band"}, "is for .tif"),
    ],
)
def test_what_no_scene_can_be_written_as_is_refused_before_the_first(tmp_path, fields, error):
    with pytest.raises(ValueError, match=error):
        CatalogueJob(str(PTH), str(tmp_path / "out"), **fields)


def test_names_that_collide_and_no_scene(tmp_path, scenes):
    job = CatalogueJob(str(PTH), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="two scenes are named s0"):
        embed_scenes(job, [scenes[0], scenes[0]])
    with pytest.raises(ValueError, match="there is no scene"):
        embed_scenes(job, [])


@pytest.mark.long
def test_beam_gives_the_same(tmp_path, scenes):
    pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install -r requirements-long.txt")
    job = CatalogueJob(str(PTH), str(tmp_path / "plain"), ".npz", options={"stride": 8})
    plain = embed_scenes(job, scenes)
    by_beam = embed_scenes(
        dataclasses.replace(job, folder=str(tmp_path / "beam")), scenes, beam_options=["--runner=DirectRunner"]
    )
    assert [r._replace(output="") for r in plain] == [r._replace(output="") for r in by_beam]
    for a, b in zip(tables(plain), tables(by_beam), strict=True):
        for name in a:
            if name != "facts":
                np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.long
def test_conversion_by_beam_gives_the_same_records(tmp_path):
    pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install -r requirements-long.txt")
    from geomoe.data.builders import LandsatFolder

    for i in range(12):
        write_tif(tmp_path / "in" / f"{i}.tif", pixels(seed=i) * (i != 5))  # one without data
    files = []
    for name, options in (("plain", {}), ("beam", {"beam_options": ["--runner=DirectRunner"]})):
        builder = LandsatFolder(source=tmp_path / "in", data_dir=tmp_path / name, config="x", **options)
        builder.download_and_prepare()
        assert builder.info.splits["train"].num_examples == 11
        folder = tmp_path / name / "landsat_folder" / "x" / "1.0.0"
        files.append({path.name: path.read_bytes() for path in folder.glob("*.tfrecord*")})
    assert files[0] == files[1] and len(files[0]) > 1


def test_a_file_by_another_reading_of_the_numbers_is_not_what_was_asked_for(tmp_path):
    path = str(write_tif(tmp_path / "s.tif", pixels(size=(20, 30))))
    job = CatalogueJob(str(PTH), str(tmp_path / "out"), ".npz", options={"stride": 8})
    assert not embed_scenes(job, [path])[0].error
    (result,) = embed_scenes(dataclasses.replace(job, spec=InputSpec(nodata="published")), [path])
    assert "is there already" in result.error


def test_a_scene_of_an_item_whose_files_changed_is_not_done(tmp_path):
    image = pixels(size=(20, 30))
    files = {}
    for i, band in enumerate(landsat.BANDS):
        files[band] = str(write_tif(tmp_path / f"{band}.tif", image[..., i : i + 1])), 1
    time = np.datetime64("2021-06-13T10:02:31")
    scene = SceneFiles(
        "mine", files, None, "landsat8", landsat.Product("landsat8", 2, "", None), "collection2_dn", time, "mine"
    )
    job = CatalogueJob(str(PTH), str(tmp_path / "out"), ".npz", options={"stride": 8})
    assert not embed_scenes(job, [scene])[0].error and not embed_scenes(job, [scene])[0].error
    write_tif(tmp_path / "SR_B4.tif", pixels(bands=1, size=(20, 30), seed=5))
    os.utime(tmp_path / "SR_B4.tif", ns=(1, 1))
    assert "is there already" in embed_scenes(job, [scene])[0].error


def test_files_that_are_there_stay_in_the_table(tmp_path, scenes, capsys):
    """Of scenes of an earlier call, and of scenes that fail as their files are of other options: search still finds them."""
    job = CatalogueJob(str(PTH), str(tmp_path / "out"), ".npz", options={"stride": 8})
    embed_scenes(job, scenes[:1])
    embed_scenes(job, scenes[1:3])
    assert [(row.scene, bool(row.output)) for row in read_results(tmp_path / "out")] == [
        ("s0", True),
        ("s1", True),
        ("gone", False),
    ]
    other = dataclasses.replace(job, dtype="float16")
    assert all("is there already" in result.error for result in embed_scenes(other, scenes[:2]))
    assert [(row.scene, row.embedded, bool(row.output)) for row in read_results(tmp_path / "out")] == [
        ("s0", 11, True),
        ("s1", 11, True),
    ]
    assert len(SearchIndex(tmp_path / "out").id) == 22
    cls = embed_scenes(dataclasses.replace(job, pool="cls"), [*scenes[:2], scenes[3]])
    assert [bool(result.error) for result in cls] == [True, True, False]
    assert len(SearchIndex(tmp_path / "out").id) == 11  # of the scene that is embedded so
    os.remove(tmp_path / "out" / "s2.npz")
    os.remove(tmp_path / "out" / "s0.npz")
    embed_scenes(job, scenes[1:2])
    assert [row.scene for row in read_results(tmp_path / "out")] == ["s1"]
    with pytest.raises(ValueError, match=r"--scenes .*in is a folder; name its scenes in a text file"):
        cli.main(["--checkpoint", str(PTH), "--scenes", str(tmp_path / "in"), "--output", str(tmp_path / "out")])


def test_what_programs_leave_in_a_folder_is_no_change_of_its_scene(tmp_path):
    folder = write_scene(tmp_path / "s", "LC08_L2SP_193026_20210613_20210622_02_T1", pixels(size=(20, 30)), prefix="SR_B")
    job = CatalogueJob(str(PTH), str(tmp_path / "out"), ".npz", options={"stride": 8})
    assert not embed_scenes(job, [str(folder)])[0].error
    (folder / "LC08_L2SP_193026_20210613_20210622_02_T1_SR_B1.TIF.aux.xml").write_text("<PAMDataset/>")
    (folder / "notes.txt").write_text("clear")
    assert not embed_scenes(job, [str(folder)])[0].error
    write_tif(folder / "LC08_L2SP_193026_20210613_20210622_02_T1_SR_B4.TIF", pixels(bands=1, size=(20, 30), seed=5))
    os.utime(folder / "LC08_L2SP_193026_20210613_20210622_02_T1_SR_B4.TIF", ns=(1, 1))
    assert "is there already" in embed_scenes(job, [str(folder)])[0].error


@pytest.mark.parametrize("beside", ["s_MTL.txt", "s.tif.msk"])
def test_what_lies_beside_a_file_and_speaks_of_it_is_part_of_the_scene(tmp_path, beside):
    path = str(write_tif(tmp_path / "s.tif", pixels(size=(20, 30))))
    if beside.endswith("txt"):
        (tmp_path / beside).write_text("DATE_ACQUIRED = 2021-06-13")
    job = CatalogueJob(str(PTH), str(tmp_path / "out"), ".npz", options={"stride": 8})
    assert not embed_scenes(job, [path])[0].error and not embed_scenes(job, [path])[0].error
    (tmp_path / "other_MTL.txt").write_text("DATE_ACQUIRED = 2001-06-13")  # of another scene in the folder
    if beside.endswith("txt"):
        assert not embed_scenes(job, [path])[0].error
    (tmp_path / beside).write_text("DATE_ACQUIRED = 2021-06-15 ")
    assert "is there already" in embed_scenes(job, [path])[0].error


def test_addresses_signed_anew_are_those_of_before(tmp_path, monkeypatch):
    def scene(signature):
        files = {band: (f"https://host/x_{band}.TIF?sig={signature}/x", 1) for band in landsat.BANDS}
        qa = Quality(f"https://host/x_QA_PIXEL.TIF?sig={signature}/x", "QA_PIXEL")
        return SceneFiles(
            "LC08_x", files, qa, "landsat8", landsat.Product(), "collection2_dn", np.datetime64("2021-06-13"), "x"
        )

    calls = []
    monkeypatch.setattr(catalogue, "embed_scene", lambda encoder, sink, *args, **options: calls.append(sink.output) or COUNTS)
    job = CatalogueJob(str(PTH), str(tmp_path), ".npz")
    for signature in ("one", "two"):
        for given in (scene(signature), f"https://host/scene.tif?sig={signature}/x"):
            assert not embed_scenes(job, [given])[0].error
            if signature == "one":
                open(calls[-1], "w").close()
    assert [os.path.basename(path) for path in calls] == ["LC08_x.npz", "scene.npz"]


def test_scenes_may_be_paths_and_one_is_one(tmp_path, scenes):
    job = CatalogueJob(str(PTH), str(tmp_path / "out"), ".npz")
    first, second = (pathlib.Path(path) for path in scenes[:2])
    assert [(r.scene, r.error) for r in embed_scenes(job, [first, scenes[1]])] == [("s0", ""), ("s1", "")]
    stamp = os.stat(tmp_path / "out" / "s0.npz").st_mtime_ns
    for one in (first, scenes[0], iter([first])):
        assert [(r.scene, r.error) for r in embed_scenes(job, one)] == [("s0", "")]
    assert job.output(second) == str(tmp_path / "out" / "s1.npz") and not catalogue.embed_one(job, second).error
    assert stamp == os.stat(tmp_path / "out" / "s0.npz").st_mtime_ns  # a path is the scene of its text
    with pytest.raises(ValueError, match="there is no scene"):
        embed_scenes(job, iter([]))


def test_lists_of_scenes_as_programs_write_them(tmp_path, scenes):
    """In UTF-16, as PowerShell's >; with comments that are indented, paths in quotes, and accents as the folder has them."""
    accents = str(write_tif(tmp_path / "in" / "e\N{COMBINING ACUTE ACCENT}.tif", pixels(size=(20, 30))))
    listing = tmp_path / "scenes.txt"
    arguments = ["--checkpoint", str(PTH), "--scenes", str(listing), "--output", str(tmp_path / "out"), "--format", ".npz"]
    lines = ["# scenes", "  # of a test", f'"{scenes[0]}"', f"  '{scenes[1]}'", accents, ""]
    listing.write_bytes("\r\n".join(lines).encode("utf-16"))
    cli.main(arguments)
    results = read_results(str(tmp_path / "out"))
    assert [(r.scene, r.error) for r in results] == [("s0", ""), ("s1", ""), ("e\N{COMBINING ACUTE ACCENT}", "")]
    listing.write_bytes(b"scenes/\xe9.tif\n")
    with pytest.raises(ValueError, match=r"scenes.txt, line 1: no UTF-8 text; save it as UTF-8"):
        cli.main(arguments)

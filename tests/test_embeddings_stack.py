"""A stack of dates: each date as by itself, their mean over the clear ones, and scenes that make none."""

import json
import shutil

import numpy as np
import pystac
import pytest
import rasterio
from embedding_tools import ORIGIN, make_ground
from geotiffs import write_scene

from geomoe import embeddings
from geomoe.cli import embed
from geomoe.data.preprocess import InputSpec
from geomoe.data.scene import SceneError

DAYS = ("20200518", "20200603", "20200619")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Three dates of 36 x 40 pixels: a cloud on the left of the first, on the right of the second, none on the third."""
    folder, ground, out = tmp_path_factory.mktemp("stack"), make_ground()[8:, 4:], []
    for i, day in enumerate(DAYS):
        image = np.where(ground == 0, 0, ground + 400 * i).astype(np.uint16)
        qa = np.zeros(image.shape[:2], int)
        qa[:, [slice(0, 16), slice(24, 40), slice(0)][i]] = 1 << 3
        stem = f"LC08_L2SP_191028_{day}_20200820_02_T1"
        out.append(write_scene(folder / stem, stem, image, prefix="SR_B", qa=qa, origin=ORIGIN))
    return out


def mean_of(values):
    """The mean over dates of (dates, ...) where it is not NaN, NaN where all are."""
    count = np.isfinite(values).sum(axis=0)
    return np.where(count, np.nansum(values, axis=0) / np.maximum(count, 1), np.nan)


@pytest.mark.parametrize("resolution", ["window", "token"])
def test_each_date_and_the_mean_over_clear_dates(encoder, scenes, tmp_path, resolution):
    output = tmp_path / "map.tif"
    done = []
    sink = embeddings.Sink(output, progress=lambda n, total: done.append(n / total))
    counts = embeddings.embed_stack(encoder, sink, scenes, resolution=resolution)
    alone = []
    for day, scene in zip(DAYS, scenes):
        one = tmp_path / f"alone_{day}.tif"
        embeddings.embed_scene(encoder, embeddings.Sink(one), scene, resolution=resolution, max_cloud=0.2)
        with rasterio.open(one) as a, rasterio.open(tmp_path / f"map_{day}.tif") as b:
            alone.append(a.read())
            np.testing.assert_array_equal(alone[-1], b.read())
            assert a.transform == b.transform
    with rasterio.open(output) as file:
        mean, facts = file.read(), json.loads(file.tags()["geomoe"])
    np.testing.assert_allclose(mean, mean_of(np.array(alone)), atol=1e-5)
    clear = np.isfinite(np.array(alone)[:, 0]).sum(axis=0)
    assert set(np.unique(clear)) >= {2, 3} and counts["embedded"] == (clear > 0).sum()
    assert len(facts["times"]) == 3 and facts["times"][1].startswith("2020-06-03") and "time" not in facts
    item = pystac.Item.from_file(f"{output}.stac.json")
    assert item.datetime is None and item.properties["start_datetime"] == "2020-05-18T00:00:00Z"
    assert item.properties["end_datetime"] == "2020-06-19T23:59:59Z"
    assert done == sorted(done) and done[-1] == 1
    assert not list(tmp_path.glob("*.parts"))


def test_dates_in_any_order_span_from_the_first_to_the_last(encoder, scenes, tmp_path):
    embeddings.embed_stack(encoder, embeddings.Sink(tmp_path / "m.npz"), scenes[::-1])
    facts = json.loads((tmp_path / "m.npz.stac.json").read_text())["properties"]
    assert facts["start_datetime"].startswith("2020-05-18") and facts["end_datetime"].startswith("2020-06-19")


@pytest.mark.parametrize("name", ["map.parquet", "map.npz"])
def test_the_mean_as_a_table(encoder, scenes, tmp_path, name):
    embeddings.embed_stack(encoder, embeddings.Sink(tmp_path / name), scenes, min_valid=0.6)
    table = embeddings.read(tmp_path / name)
    dates = [embeddings.read(tmp_path / name.replace(".", f"_{day}.")) for day in DAYS]
    np.testing.assert_allclose(table["vector"], mean_of(np.array([date["vector"] for date in dates])), atol=1e-5)
    np.testing.assert_array_equal(table["dates"], sum(date["embedded"].astype(int) for date in dates))
    assert table["id"][1] == "0_1" and np.isnat(table["time"]).all() and {0, 2, 3} == set(table["dates"].tolist())
    np.testing.assert_array_equal(table["latitude"], dates[0]["latitude"])


def test_an_interrupted_stack_goes_on(encoder, scenes, tmp_path):
    output, begun = tmp_path / "map.npz", []

    def stop(done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embeddings.embed_stack(encoder, embeddings.Sink(output, progress=stop), scenes)
    (tmp_path / "map_20200518.npz").touch()  # as where it ended while files were written
    sink = embeddings.Sink(output, progress=lambda n, total: begun.append(n / total))
    embeddings.embed_stack(encoder, sink, scenes)
    assert min(begun) > 0.3 and np.isfinite(embeddings.read(output)["vector"]).any()
    assert np.isfinite(embeddings.read(tmp_path / "map_20200518.npz")["vector"]).any()


def test_scenes_that_make_no_stack(encoder, scenes, tmp_path):
    ground = make_ground()[8:, 4:]
    qa = np.zeros(ground.shape[:2], int)
    stem = "LC08_L2SP_191028_20200705_20200820_02_T1"
    moved = write_scene(tmp_path / "moved", stem, ground, prefix="SR_B", qa=qa, origin=(ORIGIN[0] + 30, ORIGIN[1]))
    smaller = write_scene(tmp_path / "smaller", stem, ground[:-1], prefix="SR_B", qa=qa[:-1], origin=ORIGIN)
    undated = write_scene(tmp_path / "undated", "ground", ground, prefix="SR_B", qa=qa, origin=ORIGIN)
    cloudless = write_scene(tmp_path / "cloudless", stem, ground, prefix="SR_B", origin=ORIGIN)
    for other, message in (
        (moved, f"{stem} lies on another grid: transform .*500030.* is not the .*; bring them to one"),
        (smaller, "height 35 is not the 36 of LC08_L2SP_191028_20200518"),
        (undated, "a scene of a stack must say its date"),
        (cloudless, "has no quality band .* max_cloud = 0.2 means nothing; 1 takes all"),
        (scenes[0], "two scenes of the stack have one time"),
    ):
        with pytest.raises(SceneError, match=message):
            embeddings.embed_stack(encoder, embeddings.Sink(tmp_path / "x.tif"), [scenes[0], other])
    near = write_scene(tmp_path / "near", stem, ground, prefix="SR_B", qa=qa, origin=(ORIGIN[0] + 1e-7, ORIGIN[1]))
    assert embeddings.embed_stack(encoder, embeddings.Sink(tmp_path / "near.tif"), [scenes[0], near])["embedded"]
    with pytest.raises(ValueError, match="at least two scenes, not 1"):
        embeddings.embed_stack(encoder, embeddings.Sink(tmp_path / "x.tif"), scenes[:1])
    assert not list(tmp_path.glob("x*"))


def test_the_command(run_dir, scenes, tmp_path, capsys):
    arguments = ["--checkpoint", str(run_dir), "--stack", *map(str, scenes), "--output", str(tmp_path / "map.tif")]
    embed.main([*arguments, "--resolution", "token", "--dtype", "int8", "--max_cloud", "1", "--interleave", "band"])
    assert sorted(path.name for path in tmp_path.glob("*.tif")) == ["map.tif", *(f"map_{day}.tif" for day in DAYS)]
    for path in tmp_path.glob("*.tif"):
        with rasterio.open(path) as file:
            assert file.interleaving.name == "band"
    assert "embeddings" in capsys.readouterr().out
    shutil.rmtree(tmp_path)
    with pytest.raises(ValueError, match="--time is of one scene"):
        embed.main([*arguments, "--time", "2020-05-18"])


def test_each_date_is_z_scored_by_its_own_statistics_where_asked(encoder, scenes, tmp_path):
    """The dates differ by a number that is added to all pixels."""
    spec = InputSpec(statistics="computed")
    embeddings.embed_stack(encoder, embeddings.Sink(tmp_path / "m.npz"), scenes, spec=spec, max_cloud=1)
    for day, scene in zip(DAYS, scenes):
        embeddings.embed_scene(encoder, embeddings.Sink(tmp_path / f"{day}.npz"), scene, spec=spec)
        alone, date = (embeddings.read(tmp_path / f"{name}.npz")["vector"] for name in (day, f"m_{day}"))
        np.testing.assert_array_equal(date, alone)
    facts = embeddings.read(tmp_path / "m.npz")["facts"]
    means = [statistics["mean"][0] for statistics in facts["input"]["statistics"]]
    np.testing.assert_allclose(np.diff(means), [400, 400], rtol=1e-6)

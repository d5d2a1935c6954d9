"""Scores on held-out sources: free labels, few labels, and the same ground on another date."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import PTH, on_scale
from geotiffs import BIGEARTHNET_ID, pixels, write_bigearthnet, write_tif

import geomoe
from geomoe import data
from geomoe.analysis import metadata_probe
from geomoe.cli import corpus as corpus_command
from geomoe.data import corpus
from geomoe.data.corpus import BATCH, HELD_OUT, SAMPLE, TRAINING, Source, training_mix
from geomoe.experiments import held_out
from geomoe.experiments.held_out import Windows
from geomoe.landsat import Statistics

RAW = Statistics((0,) * 7, (1,) * 7, "none")


def test_no_held_out_image_is_trained_on():
    """Alberta's image is in both, by rows that do not touch."""
    trained = {source.path: source for source in TRAINING}
    for source in HELD_OUT:
        other = trained.get(source.path)
        assert not source.share and (other is None or other.rows[1] <= source.rows[0])
    names = [source.name for source in (*TRAINING, *HELD_OUT)]
    assert len(set(names)) == len(names)
    sensors = {(source.sensor, source.unit) for source in HELD_OUT}
    assert {("landsat5", "uint8"), ("landsat7", "uint8"), ("landsat8", "collection2_dn")} <= sensors
    shares = dict(training_mix())
    assert shares["landsat_scene/utah"] == 10 / BATCH and 0 < 1 - sum(shares.values()) < 0.2


def test_an_image_is_cut_within_the_rows_of_each_source(tmp_path, monkeypatch):
    """One image of 100 x 60 pixels: the north is trained on, the south held out, and no patch is of both."""
    write_tif(tmp_path / "landsat_zoo" / "place.tif", pixels(size=(100, 60)))
    write_bigearthnet(tmp_path / "landsat_sample", [BIGEARTHNET_ID.format(1, 1)])
    cut = dict(path="landsat_zoo/place.tif", unit="collection2_dn", sensor="landsat8", side=20, stride=20)
    monkeypatch.setattr(corpus, "TRAINING", (Source("north", rows=(0, 50), share=8, **cut),))
    monkeypatch.setattr(corpus, "HELD_OUT", (Source("south", rows=(50, 100), **cut),))
    counts = {}
    corpus.prepare_corpus(str(tmp_path), str(tmp_path / "data"), counts.__setitem__)
    found = json.loads((tmp_path / "data" / corpus.STATISTICS_FILE).read_text())
    north = pixels(size=(100, 60))[:40]
    sample = pixels()
    sources = [on_scale(image.reshape(-1, 7), "log") for image in (north, sample)]
    mean = sum(share * values.mean(axis=0) for share, values in zip((8 / 64, 56 / 64), sources))
    variance = sum(share * np.square(values - mean).mean(axis=0) for share, values in zip((8 / 64, 56 / 64), sources))
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(found["std"], np.sqrt(variance), rtol=1e-5)
    assert (found["unit"], found["scale"]) == ("collection2_dn", "log")
    assert counts == {"landsat_scene/north": 6, "landsat_scene/south": 6, SAMPLE: 1}
    for name, first in (("north", 0), ("south", 50)):
        batch = next(
            data.load(f"landsat_scene/{name}", "train", data_dir=tmp_path / "data", statistics=RAW).as_numpy_iterator()
        )
        corners = [tuple(map(int, patch.decode().rsplit("_", 2)[1:])) for patch in batch["id"]]
        assert sorted(corners) == [(row, column) for row in (first, first + 20) for column in (0, 20, 40)]


def windows(name="a", place="", corners=(), images=None):
    images = np.zeros((len(corners), 4, 4, 7)) if images is None else images
    labels = {"indices": np.tile([0, 1], (len(corners), 1))}
    metadata = [np.zeros((len(corners), 2))] * 4
    source, valid = Source(name, "x.tif", place=place), np.ones(images.shape[:3], bool)
    return Windows(source, images, RAW, valid, metadata, np.array(corners), labels)


def test_halves_share_no_pixel():
    grid = [(row, column) for row in range(0, 37, 2) for column in range(0, 17, 2)]
    some = windows(corners=grid)
    axes = set()
    for train, test in held_out.draw_halves(some, 5, 12):
        assert len(train) == 5
        ends = []
        for axis in range(2):
            a, b = some.corner[train, axis], some.corner[test, axis]
            ends.append(a.max() + 4 <= b.min() or b.max() + 4 <= a.min())
        assert any(ends)
        axes.add(ends[0])
    assert axes == {True, False}
    again = held_out.draw_halves(some, 5, 12)
    np.testing.assert_array_equal(again[3][0], held_out.draw_halves(some, 5, 12)[3][0])
    assert len(held_out.draw_halves(some, None, 1)[0][0]) > 5


def test_a_probe_that_sees_the_label_is_right_and_one_of_noise_is_not():
    rng = np.random.default_rng(0)
    grid = [(row, column) for row in range(0, 80, 4) for column in range(0, 80, 4)]
    labels = rng.integers(0, 2, (len(grid), 1))
    some = windows(corners=grid)
    some = dataclasses.replace(some, labels={"other": 0 * labels, "classes": np.concatenate([labels, 1 - labels], axis=1)})
    told = held_out.probe_scores(some, "classes", labels + rng.normal(0, 0.01, (len(grid), 3)), 30, 4)
    noise = held_out.probe_scores(some, "classes", rng.normal(size=(len(grid), 3)), 30, 4)
    assert told.shape == (4, 3) and (told > 0.99).all() and np.abs(noise.mean() - 0.5) < 0.1


def test_retrieval_counts_the_same_place_and_the_same_ground():
    """Two dates of a place with four windows side by side each, and another image; overlapping windows take no part."""
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    rng = np.random.default_rng(0)
    ground = rng.normal(size=(5, 8))
    ground[4] = 50.0
    first, second = windows("a1", "a", corners), windows("a2", "a", corners)
    other = windows("b", "", corners[:4])
    far = rng.normal(size=(4, 8))
    assert held_out.retrieval([first, second, other], [ground, ground + 0.01, far]) == (1.0, 1.0)
    swapped = ground[[1, 0, 2, 3, 4]]  # two of four windows find their neighbour, from either side
    assert held_out.retrieval([first, second, other], [ground, swapped, far]) == (1.0, 0.5)
    second_half_elsewhere = np.concatenate([ground[:2], far[:2], ground[4:]])
    elsewhere = np.concatenate([far[:2], ground[2:4]]) + 0.001
    assert held_out.retrieval([first, second, other], [ground, second_half_elsewhere, elsewhere]) == (0.5, 0.5)


def test_each_kind_of_labels_is_scored_by_itself():
    """Features that see one kind of labels and not the other; a source with few windows is not probed."""
    rng = np.random.default_rng(0)
    grid = [(row, column) for row in range(0, 80, 4) for column in range(0, 80, 4)]
    seen, hidden = rng.integers(0, 2, (2, len(grid), 2))
    some, few = windows("x", "p", grid), windows("y", "p", grid[:50])
    some = dataclasses.replace(some, labels={"indices": hidden, "classes": seen})
    score = held_out.score_features(lambda w: seen[: len(w.images)] + 0.01 * rng.normal(size=2), [some, few], draws=3)
    assert list(score.few) == list(score.full) == [("indices", "x"), ("classes", "x")]
    assert score.few["classes", "x"].shape == (3,) and score.few["classes", "x"].mean() > 0.99 < score.full["classes", "x"]
    assert score.full["indices", "x"] < 0.65


def test_a_window_has_the_classes_of_the_same_ground_on_another_date():
    """By corner, in whatever order the windows stand; sources of no place, and places without the window, have none."""
    rng = np.random.default_rng(0)
    corners, order = [(0, 0), (0, 4), (4, 0)], [2, 0, 1]
    sources = [windows("a1", "a", corners), windows("a2", "a", np.array(corners)[order]), windows("b1", "b", corners)]
    sources += [windows("b2", "b", corners[:2]), windows("c", "", corners)]
    sources = [dataclasses.replace(w, labels={"classes": rng.integers(0, 2, (len(w.images), 4))}) for w in sources]
    a1, a2, b1, b2, c = held_out.with_another_date(sources)
    np.testing.assert_array_equal(a2.labels["another date"], a1.labels["classes"][order])
    np.testing.assert_array_equal(a1.labels["another date"][order], a2.labels["classes"])
    np.testing.assert_array_equal(b2.labels["another date"], b1.labels["classes"][:2])
    assert "another date" not in b1.labels | c.labels


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=20)
    keys = ("indices", "x"), ("indices", "y"), ("classes", "x")
    full = dict(zip(keys, (0.5, 0.7, 0.9)))
    a, b = (held_out.HeldOutScore({key: hard + shift for key in keys}, full, 0, 0.25) for shift in (0.1, 0.0))
    assert list(held_out.paired_difference(a, b)) == list(keys)
    mean, error = held_out.paired_difference(a, b)["classes", "x"]
    assert mean == pytest.approx(0.1) and error < 1e-9
    few = f"{hard.mean() + 0.1:.3f}"
    header, _, row = held_out.table({"ours": a}, 30).splitlines()
    assert header == "| features | indices, 30 | indices, all | classes, 30 | classes, all | same place | same ground |"
    assert row == f"| ours | {few} | 0.600 | {few} | 0.900 | 0.00 | 0.25 |"


def test_a_corpus_that_is_not_cut_is_said_with_what_cuts_it(tmp_path):
    with pytest.raises(data.DatasetNotPreparedError, match=f"{tmp_path} lacks an image .*corpus --prepare FOLDER"):
        held_out.load_held_out(str(tmp_path))


@pytest.mark.long
def test_the_corpus_is_cut_and_an_encoder_scored_on_what_is_held_out(shared, tmp_path, capsys):
    from geomoe.cli import corpus as command

    if not (shared / "landsat_zoo").exists():
        pytest.skip("needs ../shared/landsat_zoo")
    command.main(["--prepare", str(shared), "--data_dir", str(tmp_path)])
    counts = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert len(counts) == len(TRAINING) + len(HELD_OUT) + 1 and counts["landsat_scene/peru"] == "16 patches"
    assert counts["landsat_scene/alberta_north"] == "420 patches"  # 14 x 30 of 64 pixels, 32 apart, in 500 x 1,001
    command.main(["--data_dir", str(tmp_path), "--checkpoints", "geomoe-xxs", "--draws", "2"])
    lines = capsys.readouterr().out.splitlines()
    scores = {
        line.split(" | ")[0].strip("| "): [float(cell) for cell in line.strip("| ").split(" | ")[1:]] for line in lines[2:8]
    }
    assert list(scores) == [
        "band statistics",
        "random convolutional features",
        "random convolutional features, Gaussian filters",
        "oriented gradients",
        "random weights of geomoe-xxs, mean",
        "geomoe-xxs, mean",
    ]
    assert scores["geomoe-xxs, mean"][1] > scores["random convolutional features"][1] + 0.03  # indices, all labels
    assert scores["oriented gradients"][-1] > 0.7 > scores["geomoe-xxs, mean"][-1] + 0.3  # the same ground on another date
    against = "geomoe-xxs, mean against random weights of geomoe-xxs, mean, another date, 30 labelled: pennsylvania_july"
    assert any(line.startswith(against) for line in lines[8:]) and len(lines) == 8 + 5 * 3


def test_the_standard_error_of_a_paired_difference():
    """Differences 0, 0.2 and 0.4: standard deviation 0.2 with n - 1."""
    a, b = (
        held_out.HeldOutScore({("indices", "s"): np.array(values)}, {}, 0.0, 0.0)
        for values in ([0.5, 0.7, 0.9], [0.5, 0.5, 0.5])
    )
    assert held_out.paired_difference(a, b)["indices", "s"] == pytest.approx((0.2, 0.2 / 3**0.5))


def test_the_command_scores_in_other_ways_where_asked(monkeypatch, capsys):
    """With metadata, and random and trained weights on images z-scored by the encoder's statistics."""
    asked, images = [], np.random.default_rng(0).normal(size=(4, 8, 8, 7)).astype(np.float32)
    some = [windows(corners=[(0, 0)] * 2, images=half) for half in (images[:2], images[2:])]
    monkeypatch.setattr(held_out, "load_held_out", lambda data_dir: some)
    monkeypatch.setattr(held_out, "baselines", lambda windows: {})
    features = lambda encoder, pool="mean", metadata=False, own_statistics=True: asked.append((metadata, own_statistics))
    monkeypatch.setattr(held_out, "encoder_features", features)
    score = held_out.HeldOutScore({("indices", "x"): np.arange(2.0)}, {("indices", "x"): 0.5}, 0.0, 0.0)
    monkeypatch.setattr(held_out, "score_features", lambda *features, **options: score)
    plain, of_encoder = (False, True), (False, False)
    for option, expected in (
        ("given_metadata", [plain, plain, (True, True)]),
        ("encoder_statistics", [plain] * 2 + [of_encoder] * 2),
    ):
        asked.clear()
        corpus_command.main(["--checkpoints", str(PTH), f"--{option}"])
        assert asked == expected
    for pool in ("tokens", "middle"):
        with pytest.raises(ValueError, match=f"--pools {pool}: pool = '{pool}'"):
            corpus_command.main(["--checkpoints", str(PTH), "--pools", "mean", pool])
    out = capsys.readouterr().out
    read = metadata_probe(geomoe.load(PTH), images)
    assert f"{PTH}, mean, metadata given at random and read from embeddings: R2 of week {read.r2['week']:.2f}, hour" in out
    assert f"; {read.share:.3f} of the variance\n" in out
    assert "metadata given" in out and f"{PTH}, mean, encoder's statistics against random weights of" in out


def test_windows_are_z_scored_by_the_statistics_of_their_source_or_of_the_encoder(encoder):
    own, rng = Statistics((9000.0,) * 7, (700.0,) * 7, "own"), np.random.default_rng(0)
    dn = rng.normal(9000, 700, (5, 8, 8, 7)).astype(np.float32)
    some = windows(corners=[(0, 0)] * 5, images=own.normalize(dn))
    some = dataclasses.replace(some, statistics=own)
    for own_statistics, statistics in ((True, own), (False, None)):
        z = held_out.encoder_features(encoder, own_statistics=own_statistics)(some)
        np.testing.assert_allclose(z, encoder.embed(dn, statistics=statistics), atol=1e-4)

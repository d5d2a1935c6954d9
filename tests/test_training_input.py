"""The input of a run: statistics, mixing, held-out batches, fake data."""

import itertools

import numpy as np
import pytest
from conftest import real_data_config, tiny_config
from hypothesis import given, strategies as st

from geomoe import data
from geomoe.landsat import STATISTICS, Statistics
from geomoe.metadata import FIELDS
from geomoe.training import validate
from geomoe.training.input import open_data, rows_of_mix


def opened(config, known=None):
    return open_data(config, validate(config), known)


def test_datasets_are_mixed_row_by_row_each_by_its_own_statistics(synthetic_dir):
    half = {"data.train_split": "train[:50%]"}  # whose statistics are not those of the whole, which is mixed in
    changes = {"data.mix": (("synthetic_landsat/small_dominant", 0.25),), "data.val_split": "val[:10]"} | half
    config = real_data_config(synthetic_dir, **changes)
    size = config.train.batch_size
    run = opened(config)
    facts = run.mix["synthetic_landsat/small_dominant"]
    assert facts["rows"] == size // 4 and facts["statistics"]["source"].startswith("computed:synthetic_landsat/small_dominant")
    whole = [batch for batch, _ in zip(run.train(0), range(3))]
    assert whole[0]["image"].shape[0] == size
    again = next(run.train(2))
    for key in again:
        np.testing.assert_array_equal(again[key], whole[2][key])
    plain = real_data_config(synthetic_dir, **half)
    plain.train.batch_size = size - size // 4
    alone = next(opened(plain).train(0))
    np.testing.assert_array_equal(whole[0]["image"][: size - size // 4], alone["image"])
    mixed = data.load(
        "synthetic_landsat/small_dominant",
        "train",
        data_dir=synthetic_dir,
        batch_size=size // 4,
        resize_mode="random_crop",
        augment=data.Augment(flips=True, metadata_dropout=0.2),
        train=True,
        statistics=facts["statistics"],
    )
    np.testing.assert_array_equal(whole[0]["image"][size - size // 4 :], next(mixed.as_numpy_iterator())["image"])
    assert facts["statistics"]["mean"] != list(run.statistics.mean)
    held_out = next(run.val())
    assert len(held_out["image"]) == 10  # fewer than a batch
    hidden = np.mean([~held_out[name].any(axis=1) for name in FIELDS])
    assert 0 < hidden < 0.5  # of metadata_dropout = 0.2, as in training


def test_statistics_are_computed_published_or_those_of_the_run(synthetic_dir):
    config = real_data_config(synthetic_dir)
    computed = opened(config).statistics
    assert computed == data.compute_statistics("synthetic_landsat/small", "train", synthetic_dir)
    known = Statistics((1.0,) * 7, (2.0,) * 7, "of the run")
    assert opened(config, dict(known)).statistics == known
    config.data.statistics, config.data.statistics_dataset = "published", "eurosat_landsat"
    assert opened(config).statistics.mean == STATISTICS["eurosat_landsat"]["mean"]
    config.data.statistics_dataset = ""
    with pytest.raises(ValueError, match="no published statistics of 'synthetic_landsat'"):
        opened(config)


def test_options_of_the_config_reach_the_images(synthetic_dir):
    """Each switch changes the batch that it is for, and no other."""
    base = next(opened(real_data_config(synthetic_dir, **{"data.flips": False, "data.metadata_dropout": 0.0})).train(0))
    images = base["image"]
    same_crops = {"data.flips": False, "data.metadata_dropout": 0.0}
    rotated = next(opened(real_data_config(synthetic_dir, **same_crops, **{"data.rot90": True})).train(0))["image"]
    assert all(any(np.array_equal(np.rot90(a, k), b) for k in range(4)) for a, b in zip(images, rotated))
    assert not all(np.array_equal(a, b) or np.array_equal(np.rot90(a, 2), b) for a, b in zip(images, rotated))
    flipped = next(opened(real_data_config(synthetic_dir, **{"data.metadata_dropout": 0.0})).train(0))["image"]
    mirrors = lambda a: [a, a[::-1], a[:, ::-1], a[::-1, ::-1]]
    assert all(any(np.array_equal(m, b) for m in mirrors(a)) for a, b in zip(images, flipped))
    assert not np.array_equal(images, flipped)
    bare = next(opened(real_data_config(synthetic_dir, **{**same_crops, "data.metadata_dropout": 1.0})).train(0))
    np.testing.assert_array_equal(bare["image"], images)
    assert not any(bare[name].any() for name in FIELDS) and any(base[name].any() for name in FIELDS)
    coastal = next(opened(real_data_config(synthetic_dir, **same_crops, **{"data.coastal_dropout": 1.0})).train(0))
    np.testing.assert_array_equal(coastal["image"][..., 0], images[..., 1])
    np.testing.assert_array_equal(coastal["image"][..., 1:], images[..., 1:])
    assert any(coastal[name].any() for name in FIELDS)
    jittered = next(opened(real_data_config(synthetic_dir, **same_crops, **{"data.band_jitter": 0.2})).train(0))["image"]
    assert 0.05 < np.abs(jittered - images).mean() < 1
    clipped = next(opened(real_data_config(synthetic_dir, **same_crops, **{"data.clip": (9000.0, 9001.0)})).train(0))["image"]
    assert np.ptp(clipped, axis=(0, 1, 2)).max() < 0.01
    sided = {"data.resize_mode": "random_resized_crop", "data.crop_sides": (10, 12)}
    smooth = next(opened(real_data_config(synthetic_dir, **same_crops, **sided)).train(0))["image"]
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.5 * np.abs(np.diff(images, axis=1)).mean()  # enlarged four times
    other = next(opened(real_data_config(synthetic_dir, **same_crops, seed=5)).train(0))["image"]
    assert not np.array_equal(other, images)


def test_two_views_in_training_and_validation(synthetic_dir):
    config = real_data_config(
        synthetic_dir, **{"data.metadata_dropout": 1.0, "loss.info_nce_weight": 1.0, "loss.metadata_weight": 1.0}
    )
    run = opened(config)
    for batch in (next(run.train(0)), next(run.val())):
        assert not any(batch[name].any() for name in FIELDS) and batch["metadata"].any(axis=-1).all()
        assert batch["second_view"].shape == batch["image"].shape
        assert not np.array_equal(batch["second_view"], batch["image"])
    first, again = next(run.val()), next(run.val())
    for key in first:  # the same held-out crops at each evaluation
        np.testing.assert_array_equal(first[key], again[key])


@pytest.mark.parametrize(
    "mode, held_out", [("random_crop", "centre_crop"), ("random_resized_crop", "centre_crop"), ("resize", "resize")]
)
def test_another_dataset_is_held_out_by_its_own_statistics_and_not_cropped_at_random(synthetic_dir, mode, held_out):
    other = "synthetic_landsat/small_dominant"
    changes = {"data.resize_mode": mode, "data.crop_sides": (22, 40) if mode == "random_resized_crop" else ()}
    config = real_data_config(synthetic_dir, **{"data.val_name": other, "data.val_split": "val[:10]"}, **changes)
    run = opened(config)
    statistics = data.compute_statistics(other, "val[:10]", synthetic_dir)
    loaded = data.load(other, "val[:10]", data_dir=synthetic_dir, statistics=statistics, resize_mode=held_out)
    order = lambda batch: sorted(image.tobytes() for image in batch["image"])
    assert order(next(run.val())) == order(next(loaded.as_numpy_iterator()))
    assert run.val_share == 10 and run.val_statistics.mean == statistics.mean != run.statistics.mean


@pytest.mark.parametrize("processes, sizes", [(1, [[8, 8, 8, 3]]), (2, [[4, 4, 4, 2], [4, 4, 4, 1]])])
def test_held_out_batches_hold_every_example_once(synthetic_dir, monkeypatch, processes, sizes):
    import jax

    changes = {"data.val_split": "val[:27]", "train.batch_size": 8, "data.resize_mode": "centre_crop"}
    config, images = real_data_config(synthetic_dir, **changes), []
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    for process, expected in enumerate(sizes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        run = opened(config)
        batches = list(itertools.islice(run.val(), 9))
        assert [len(batch["image"]) for batch in batches] == expected and run.val_share == 27 // processes
        images += [image for batch in batches for image in batch["image"]]
    loaded = data.load("synthetic_landsat/small", "val[:27]", data_dir=synthetic_dir, statistics=run.statistics)
    whole = np.concatenate([batch["image"] for batch in loaded.as_numpy_iterator()])
    order = lambda images: np.sort(np.array([image.tobytes() for image in images]))
    np.testing.assert_array_equal(order(images), order(whole))
    assert len(whole) == 27


def test_too_few_held_out_examples_are_named(synthetic_dir, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "process_count", lambda: 64)
    with pytest.raises(ValueError, match=r"val_split = 'val'.*has 32 examples, fewer than the 64 processes"):
        opened(real_data_config(synthetic_dir, **{"train.batch_size": 64}))


def test_shares_become_rows():
    assert rows_of_mix([("a", 0.25), ("b", 0.1)], 64) == {"a": 16, "b": 6}
    assert rows_of_mix([("a", 0.25), ("b", 0.1)], 64, 4) == {"a": 16, "b": 8}
    for mix, message in (
        (("synthetic_landsat",), r"no \(name, share\)"),
        (("a=0.5",), r"no \(name, share\)"),
        ((("a", 0.01),), "gives no row"),
        ((("a", 1.0),), "leaves no"),
        ((("a", 0.25), ("a", 0.25)), "names 'a' twice"),
    ):
        with pytest.raises(ValueError, match=message):
            rows_of_mix(mix, 16)


@pytest.mark.parametrize("processes", [2, 4])
def test_real_batches_are_the_same_over_processes(synthetic_dir, monkeypatch, processes):
    """Of 8 rows, 3 are of another dataset, so that a process has rows of both; crops, flips and dropped metadata as well."""
    import jax

    changes = {"data.mix": (("synthetic_landsat/small_dominant", 0.4),), "data.metadata_dropout": 0.5, "data.flips": True}
    config = real_data_config(synthetic_dir, **changes, **{"train.batch_size": 8, "loss.info_nce_weight": 1.0})
    stream = lambda start: list(itertools.islice(opened(config).train(start), 3))
    whole = stream(2)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    parts = []
    for i in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda i=i: i)
        parts.append(stream(2))
    for batch, *shares in zip(whole, *parts):
        for key, values in batch.items():
            assert [len(share[key]) for share in shares] == [8 // processes] * processes
            np.testing.assert_array_equal(np.concatenate([share[key] for share in shares]), values, err_msg=key)


def test_processes_may_read_their_own_shards_alone(synthetic_dir, monkeypatch):
    import jax

    config = real_data_config(synthetic_dir, **{"train.batch_size": 8, "data.own_shards": True})
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    seen = []
    for i in range(2):
        monkeypatch.setattr(jax, "process_index", lambda i=i: i)
        stream = opened(config).train(0)
        batches = list(itertools.islice(stream, 12))  # an epoch of 96 examples
        assert all(len(batch["image"]) == 4 for batch in batches)
        seen.append({tuple(np.concatenate([batch[name][row] for name in FIELDS])) for batch in batches for row in range(4)})
    assert len(seen[0]) > 20 and len(seen[0] & seen[1]) < 5  # by their metadata, of which a fifth is dropped


def test_fake_data_are_the_same_over_processes(monkeypatch):
    import jax

    config = tiny_config()
    whole = next(opened(config).train(0))["image"]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    parts = []
    for i in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda i=i: i)
        parts.append(next(opened(config).train(0))["image"])
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.floats(0, 1)), max_size=4), st.integers(1, 256))
def test_any_mix_leaves_rows_for_the_main_dataset_or_is_refused(mix, size):
    try:
        rows = rows_of_mix(mix, size)
    except ValueError as error:
        assert "config.data.mix" in str(error)
    else:
        assert list(rows) == [name for name, _ in mix] and sum(rows.values()) < size
        assert all(count >= 1 for count in rows.values())

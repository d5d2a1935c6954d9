"""The protocol against scikit-learn, and what an encoder is scored on."""

import types

import numpy as np
import pytest
from conftest import with_scale
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geomoe import landsat
from geomoe.data import preprocess
from geomoe.experiments import Protocol, Scorer, cross_validated, scoring
from geomoe.models import ModelConfig
from geomoe.probing import band_statistics

SHORT = Protocol(strengths=(0.1,), folds=3, seeds=(0,), min_positives=1)


def model_of(strength):
    return make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(C=strength, tol=1e-8, max_iter=1000)))


def labelled(seed, count, rare=False):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 5))
    weights = np.random.default_rng(9).standard_normal((5, 4))
    labels = (x @ weights + rng.standard_normal((count, 4)) > [0, 0.2, 0.5, 0]).astype(int)
    if rare:
        labels[np.flatnonzero(labels[:, 3])[5:], 3] = 0  # too few to count in the macro average
    return x, labels


def test_the_protocol_is_that_of_scikit_learn():
    x, labels = labelled(0, 60, rare=True)
    assert labels.sum(axis=0)[3] < Protocol().min_positives <= labels.sum(axis=0)[:3].min()
    best, every = None, []
    for strength in (0.01, 0.1, 1.0):
        micro, macro = [], []
        for seed in (0, 1, 2):
            scores = np.zeros(labels.shape)
            for part in np.array_split(np.random.default_rng(seed).permutation(60), 5):
                rest = np.setdiff1d(np.arange(60), part)
                scores[part] = model_of(strength).fit(x[rest], labels[rest]).predict_proba(x[part])
            micro.append(average_precision_score(labels, scores, average="micro"))
            macro.append(average_precision_score(labels[:, :3], scores[:, :3], average="macro"))
        every.append(np.mean(micro))
        if best is None or np.mean(micro) > best[0]:
            best = np.mean(micro), np.mean(macro)
    assert best[0] > min(every)
    np.testing.assert_allclose(cross_validated(x, labels), best, atol=2e-3)
    low = cross_validated(x, labels, Protocol(min_positives=1))
    assert low[0] == cross_validated(x, labels)[0] and low[1] != cross_validated(x, labels)[1]


class Means:
    """An encoder whose embedding is the mean of the image, with the metadata that it is given where the pool says so."""

    config = ModelConfig(width=5, num_heads=1, num_groups=1, img_size=8, in_channels=5)
    statistics = {"source": "none"}

    def embed_batch(self, images, fields, pool, size, valid):
        assert pool in (("mean",), ("mean", "metadata"))
        return np.concatenate([images.mean(axis=(1, 2)), *(fields if "metadata" in pool else ())], axis=1)


@pytest.fixture
def patches(monkeypatch):
    """Patches whose means are features that tell their labels, of this set and of the other one's splits."""
    by_split = {}
    for seed, (split, count) in enumerate((("train", 60), ("other train[:40]", 40), ("other test[:30]", 30))):
        x, labels = labelled(seed, count)
        rng = np.random.default_rng(seed + 50)
        whole = np.broadcast_to(x[:, None, None], (count, 8, 8, 5)).astype(np.float32)
        noise = rng.standard_normal(x.shape)[:, None, None].astype(np.float32)
        fields = [rng.standard_normal((count, 2)).astype(np.float32) for _ in range(4)]
        by_split[split] = scoring.Patches(whole, whole + noise, *np.ones((2, count, 8, 8), bool), fields, labels)

    def load_patches(encoder, name, split, data_dir, **options):
        assert options == {"nodata": "masked"} | ({"statistics": "those of the other"} if name == "other" else {})
        return by_split[f"other {split}" if name == "other" else split]

    monkeypatch.setattr(scoring, "load_patches", load_patches)
    sizes = {"train": 40, "test": 30}
    monkeypatch.setattr(
        scoring,
        "data",
        types.SimpleNamespace(
            builder=lambda *args: "builder",
            compute_statistics=lambda builder, split: "those of the other",
            num_examples=lambda builder, split: sizes[split],
        ),
    )
    return by_split


def test_views_pools_and_transfer_are_those_of_their_names(patches):
    scorer = Scorer(Means(), "some", "train", "data", "other", SHORT)
    rows = {(r.pool, r.view): r for r in scorer.scores(Means(), ["mean", ("mean", "metadata")])}
    assert set(rows) == {
        *(("mean", view) for view in scoring.VIEWS),
        ("mean+metadata", scoring.WHOLE),
        ("mean+metadata", scoring.CROPPED),
    }
    here = patches["train"]
    means = {scoring.WHOLE: here.whole, scoring.NO_METADATA: here.whole, scoring.CROPPED: here.cropped}
    for (pool, view), row in rows.items():
        z = means[view].mean(axis=(1, 2))
        z = np.concatenate([z, *here.metadata], axis=1) if "metadata" in pool else z
        assert (row.micro_mAP, row.macro_mAP) == pytest.approx(cross_validated(z, here.labels, SHORT), abs=1e-6)
        assert np.isnan(row.transfer) == (view != scoring.WHOLE)
    train, test = patches["other train[:40]"], patches["other test[:30]"]
    model = model_of(0.1).fit(train.whole[:, 0, 0], train.labels)
    expected = average_precision_score(test.labels, model.predict_proba(test.whole[:, 0, 0]), average="micro")
    fitted = average_precision_score(train.labels, model.predict_proba(train.whole[:, 0, 0]), average="micro")
    assert rows["mean", scoring.WHOLE].transfer == pytest.approx(expected, abs=2e-3) != pytest.approx(fitted, abs=5e-3)


def test_baselines_are_scored_with_and_without_metadata(patches):
    scorer = Scorer(Means(), "some", "train", "data", "", SHORT)
    rows, here = scorer.baselines(0), patches["train"]
    assert set(rows) == set(scoring.BASELINES) and all(np.isnan(row.transfer) for row in rows.values())
    bands = band_statistics(here.whole, here.valid)
    for name, pool, z in (
        ("band statistics", "", bands),
        ("band statistics", "+metadata", np.concatenate([bands, *here.metadata], axis=1)),
        ("metadata alone", "metadata", np.concatenate(here.metadata, axis=1)),
    ):
        assert rows[name, pool].micro_mAP == pytest.approx(cross_validated(z, here.labels, SHORT)[0], abs=1e-6)
        assert rows[name, pool].view == (scoring.WHOLE if pool else scoring.NO_METADATA)


def test_only_labelled_patches_are_loaded(synthetic_dir, monkeypatch):
    from conftest import DATA

    from geomoe.pretrained import load

    encoder = load(DATA / "reference_tiny_random.pth")
    real = scoring.load_images

    def some_unlabelled(*args, **options):
        batch = real(*args, **options)
        batch["labels"][::2] = 0
        return batch

    monkeypatch.setattr(scoring, "load_images", some_unlabelled)
    patches = scoring.load_patches(encoder, "synthetic_landsat/small", "test", str(synthetic_dir))
    batch = real(encoder, "synthetic_landsat/small", "test", data_dir=str(synthetic_dir))
    np.testing.assert_array_equal(patches.whole, batch["image"][1::2])
    np.testing.assert_array_equal(patches.labels, batch["labels"][1::2])
    np.testing.assert_array_equal(patches.metadata[3], batch["lon"][1::2])
    assert patches.cropped.shape == patches.whole.shape and not np.allclose(patches.cropped, patches.whole, atol=0.1)
    raw = landsat.Statistics((0.0,) * 7, (1.0,) * 7, "raw")
    small = real(encoder, "synthetic_landsat/small", "test", data_dir=str(synthetic_dir), img_size=22, statistics=raw)
    for scale in landsat.SCALES:  # as a user's images of 22 x 22 pixels
        some = with_scale(encoder, scale)
        given = small["image"][1::2], preprocess.InputSpec(resize_mode="resize"), some.bands, 8, some.statistics
        cropped = scoring.load_patches(some, "synthetic_landsat/small", "test", str(synthetic_dir)).cropped
        np.testing.assert_allclose(cropped, preprocess.prepare(*given)[0], atol=1e-3)
    images, fields, valid = patches.view(scoring.NO_METADATA)
    assert valid is patches.valid and patches.cropped_valid.all()
    assert images is patches.whole and not any(f.any() for f in fields)
    monkeypatch.setattr(scoring, "load_images", lambda *a, **o: {**batch, "labels": 0 * batch["labels"]})
    with pytest.raises(ValueError, match="has no labelled patch"):
        scoring.load_patches(encoder, "synthetic_landsat/small", "test", str(synthetic_dir))


def test_both_scores_are_those_of_the_strength_with_the_best_micro_average():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 3)) < [0.6, 0.3, 0.2]).astype(int)
    z = rng.standard_normal((60, 6)) + 0.5 * np.pad(labels, ((0, 0), (0, 3)))
    strengths = (0.01, 0.1, 1.0, 10.0)
    each = [cross_validated(z, labels, Protocol(strengths=(c,), folds=4, seeds=(0,))) for c in strengths]
    micro, macro = np.transpose(each)
    assert micro.argmax() != macro.argmax()
    together = cross_validated(z, labels, Protocol(strengths=strengths, folds=4, seeds=(0,)))
    np.testing.assert_allclose(together, each[micro.argmax()], atol=1e-3)

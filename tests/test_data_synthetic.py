"""Synthetic patches: the same bytes for ever, plausible spectra, metadata that helps and does not suffice."""

import hashlib

import numpy as np

from geomoe import landsat, metadata
from geomoe.data import synthetic


def test_the_same_arguments_give_the_same_bytes():
    """The digest is that of the first published version: datasets of several years' runs must stay comparable."""
    digest = hashlib.sha256()
    for i in range(5):
        scene = synthetic.scene(0, "train", i)
        digest.update(scene.image.tobytes() + scene.cover.tobytes() + str((scene.labels, scene.time)).encode())
    pairs = synthetic.change_pairs(1, 3)
    digest.update(pairs["before"].tobytes() + pairs["after"].tobytes())
    assert digest.hexdigest()[:16] == "c80a4dbc41c3caeb"
    assert not np.array_equal(synthetic.scene(8, "train", 3).image, synthetic.scene(7, "train", 3).image)


def test_scenes_have_every_cover_and_what_is_said_of_them():
    scenes = [synthetic.scene(0, "train", i) for i in range(150)]
    assert scenes[0].image.dtype == np.uint16 and scenes[0].image.shape == (44, 44, 7)
    assert set().union(*(s.labels for s in scenes)) == set(range(10))
    assert any((s.image == 0).any() for s in scenes)
    for scene in scenes:
        share = np.bincount(scene.cover[scene.image.any(axis=-1)], minlength=10) / scene.image.any(axis=-1).sum()
        assert scene.labels == np.flatnonzero(share >= 0.05).tolist() and scene.dominant == share.argmax()
    # Vegetation rises from red to near infrared, water falls; in reflectance, by construction of the published curves.
    name = {c: i for i, c in enumerate(synthetic.CLASSES)}
    means = {}
    for cover in ("needle-leaved forest", "sea"):
        values = [landsat.dn_to_reflectance(s.image)[s.cover == name[cover]] for s in scenes if (s.cover == name[cover]).any()]
        means[cover] = np.nanmean(np.concatenate(values), axis=0)
    assert means["needle-leaved forest"][4] > 3 * means["needle-leaved forest"][3]
    assert means["sea"][4] < means["sea"][2]
    changed = synthetic.scene(0, "train", 0, replace_cover=(synthetic.CLASSES[scenes[0].dominant], "town"))
    assert (changed.cover != scenes[0].cover).any() and changed.latitude == scenes[0].latitude


def test_crops_green_at_other_weeks():
    """The same fields at two dates: winter crops are green in May and bare in September, summer crops the other way."""
    assert synthetic.greenness("winter crop", 20, 48) > 0.8 > 0.3 > synthetic.greenness("winter crop", 36, 48)
    assert synthetic.greenness("summer crop", 20, 48) < 0.2 < 0.7 < synthetic.greenness("summer crop", 31, 48)
    assert synthetic.greenness("summer crop", 31 - 26, -48) == synthetic.greenness("summer crop", 31, 48)


def test_the_sun_stands_where_it_should():
    at = lambda lat, time: synthetic.sun_elevation(lat, 0.0, np.datetime64(time, "s"))
    assert abs(np.degrees(np.arcsin(at(50.0, "2017-06-21T12:00"))) - 63.4) < 0.5  # 90 - 50 + 23.4
    assert abs(np.degrees(np.arcsin(at(50.0, "2017-12-21T12:00"))) - 16.6) < 0.5
    assert at(50.0, "2017-06-21T00:00") < 0


def test_pairs_change_where_they_say_so():
    pairs = synthetic.change_pairs(0, 12, start=5)
    later = (pairs["time_after"] - pairs["time_before"]) / np.timedelta64(1, "D")
    assert ((later > 364) & (later < 732)).all() and 0 < pairs["changed"].sum() < 12
    np.testing.assert_array_equal(pairs["before"][3], synthetic.scene(0, "pairs", 8).image)
    for i in np.flatnonzero(~pairs["changed"]):
        same = synthetic.scene(0, "pairs", 5 + i, time=pairs["time_after"][i])
        np.testing.assert_array_equal(pairs["after"][i], same.image)
    for i in np.flatnonzero(pairs["changed"]):
        same = synthetic.scene(0, "pairs", 5 + i, time=pairs["time_after"][i])
        assert (pairs["after"][i] != same.image).any()


def test_records_say_what_the_scene_is():
    record, scene = synthetic.record(2, "val", 7), synthetic.scene(2, "val", 7)
    assert record["id"] == "synthetic_2_val_000007" and record["labels"] == scene.labels
    assert metadata.parse_time(record["time"]) == scene.time and record["latitude"] == scene.latitude


def test_metadata_helps_and_does_not_suffice():
    """Which crop a field holds: from metadata alone, from its greenness (NDVI) alone, and from both together."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    ndvi, encoded, target = [], [], []
    for i in range(800):
        scene = synthetic.scene(1, "train", i)
        week, _ = metadata.encode_time(np.array([scene.time]))
        for crop in (0, 1):
            if (scene.cover == crop).mean() > 0.15:
                mean = np.nanmean(landsat.dn_to_reflectance(scene.image)[scene.cover == crop], axis=0)
                ndvi.append(landsat.spectral_indices(mean)[:1])
                encoded.append([*week[0], np.sign(scene.latitude)])
                target.append(crop)
    assert len(target) > 100

    def score(x):
        model = make_pipeline(StandardScaler(), PolynomialFeatures(3), StandardScaler(), LogisticRegression(max_iter=500))
        return cross_val_score(model, x, np.array(target), cv=5).mean()

    assert score(np.array(encoded)) < 0.65
    assert score(np.hstack([ndvi, encoded])) > score(np.array(ndvi)) + 0.1

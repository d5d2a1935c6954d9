"""Sensitivity to metadata: what each change does to the metadata, and what embeddings and probes make of it."""

import numpy as np
import pandas as pd
import pytest

from geomoe import metadata
from geomoe.analysis import metadata_probe, metadata_sensitivity

FIELDS = metadata.FIELDS
RNG = np.random.default_rng(0)
COUNT = 200
LAT = RNG.uniform(-60, 60, COUNT)
LON = RNG.uniform(-180, 180, COUNT)
TIME = np.datetime64("2020-01-01", "s") + RNG.integers(0, 365 * 24, COUNT).astype("timedelta64[h]")
IMAGES = RNG.standard_normal((COUNT, 4, 4, 2)).astype(np.float32)


def fields():
    encoded = metadata.encode(LAT, LON, TIME)._asdict()
    encoded["lon"][:3] = 0  # missing
    return encoded


class Recorder:
    """Embeds images by their mean, and with `latitude` by that and the latitude; keeps the metadata that it was given."""

    def __init__(self, latitude):
        self.latitude, self.seen = latitude, []

    def embed_batch(self, images, fields, pool, size, valid):
        self.valid = valid
        self.seen.append(dict(zip(FIELDS, fields)))
        mean = images.mean(axis=(1, 2))
        return np.concatenate([mean, 100 * fields[2]], axis=1) if self.latitude else mean


def metadata_of(encoder):
    rows = metadata_sensitivity(encoder, IMAGES, fields(), batch_size=COUNT)
    return dict(zip((row.change for row in rows), encoder.seen))


def angles(values):
    return np.degrees(np.arctan2(values[:, 0], values[:, 1]))


def test_it_is_seen_where_it_is_and_not_where_it_is_not():
    labels = (LAT > 0).astype(int)
    rows = {row.change: row for row in metadata_sensitivity(Recorder(True), IMAGES, fields(), labels, "multiclass")}
    true = rows["true metadata"]
    assert next(iter(rows)) == "true metadata" and true.cosine == pytest.approx(1) and true.score > 0.95
    assert rows["no time"].score == true.score and rows["no time"].cosine == pytest.approx(1)
    assert rows["no location"].refitted < 0.7 and rows["locations shuffled"].score < 0.7
    assert abs(rows["locations shuffled"].cosine) < 0.3
    for row in metadata_sensitivity(Recorder(False), IMAGES, fields()):
        assert row.cosine == pytest.approx(1) and row.score is None and row.refitted is None
    with pytest.raises(ValueError, match="labels need a task"):
        metadata_sensitivity(Recorder(False), IMAGES, fields(), labels)


def test_the_probe_of_true_embeddings_is_scored_on_changed_ones_and_not_the_other_way():
    """A probe of (s, 100 s) is wrong about (-s, 10 s); one of (-s, 10 s) is right about (s, 100 s)."""
    sign = np.sign(IMAGES.mean(axis=(1, 2, 3)))[:, None]

    class Turned:
        def embed_batch(self, images, fields, pool, size, valid):
            missing = ~fields[2].any(axis=1, keepdims=True)
            return np.where(missing, sign * [-1, 10], sign * [1, 100])

    labels = (sign[:, 0] > 0).astype(int)
    rows = metadata_sensitivity(Turned(), IMAGES, fields(), labels, "multiclass", batch_size=COUNT)
    (row,) = (row for row in rows if row.change == "no location")
    assert row.score == 0 and row.refitted == 1


def test_pixels_without_data_are_known_to_the_encoder():
    encoder, valid = Recorder(False), RNG.random(IMAGES.shape[:3]) < 0.9
    metadata_sensitivity(encoder, IMAGES, fields(), valid=valid, batch_size=COUNT)
    np.testing.assert_array_equal(encoder.valid, valid)


def test_missing_metadata_is_missing_and_the_rest_stays():
    changed, true = metadata_of(Recorder(False)), fields()
    for change, names in (("no location", ("lat", "lon")), ("no time", ("week", "hour")), ("no metadata", FIELDS)):
        for name in FIELDS:
            np.testing.assert_array_equal(changed[change][name], 0 * true[name] if name in names else true[name])


def test_shuffled_metadata_goes_to_other_images_in_pairs_that_stay_together():
    changed, true = metadata_of(Recorder(False)), fields()
    for change, names in (
        ("locations shuffled", ("lat", "lon")),
        ("times shuffled", ("week", "hour")),
        ("locations and times shuffled", FIELDS),
    ):
        after, before = (np.concatenate([f[name] for name in names], axis=1) for f in (changed[change], true))
        assert (after != before).any(axis=1).mean() > 0.9
        np.testing.assert_array_equal(np.unique(after, axis=0), np.unique(before, axis=0))
        for name in set(FIELDS) - set(names):
            np.testing.assert_array_equal(changed[change][name], true[name])


@pytest.mark.parametrize(
    "change, field, degrees",
    [
        ("longitude shifted by 30 degrees", "lon", 30),
        ("week shifted by half a year", "week", 180),
        ("hour shifted by 6 hours", "hour", 90),
    ],
)
def test_shifted_metadata_is_shifted(change, field, degrees):
    changed, true = metadata_of(Recorder(False))[change], fields()
    present = true[field].any(axis=1)
    turned = (angles(changed[field]) - angles(true[field]))[present] % 360
    np.testing.assert_allclose(turned, degrees, atol=1e-3)
    assert not changed[field][~present].any()
    for name in set(FIELDS) - {field}:
        np.testing.assert_array_equal(changed[name], true[name])


def test_what_every_image_shares_is_no_likeness():
    """A constant that stands in all embeddings without a location would make them alike."""

    class Moved:
        def embed_batch(self, images, fields, pool, size, valid):
            return images.mean(axis=(1, 2)) + 10.0 * ~fields[2].any(axis=1, keepdims=True)

    rows = {row.change: row for row in metadata_sensitivity(Moved(), IMAGES, fields(), batch_size=COUNT)}
    assert abs(rows["no location"].cosine) < 0.3


def test_labels_are_those_of_the_images_in_their_order():
    """A Series in another order of its index, a list, a column and 0/1 columns are the same labels."""
    labels = (LAT > 0).astype(int)
    probe = lambda labels: [
        (row.score, row.refitted) for row in metadata_sensitivity(Recorder(True), IMAGES, fields(), labels, "multiclass")
    ]
    expected = probe(labels)
    assert expected[0][0] > 0.95
    shuffled = pd.Series(labels, index=np.random.default_rng(3).permutation(COUNT))
    for same in (shuffled, list(labels), labels[:, None], np.eye(2, dtype=int)[labels]):
        assert probe(same) == expected


def test_what_is_not_of_the_images_is_refused():
    labels, true = (LAT > 0).astype(int), fields()
    sensitivity = lambda fields, labels: metadata_sensitivity(Recorder(True), IMAGES, fields, labels, "multiclass")
    for some in (np.tile(labels, 2), labels[:150]):
        with pytest.raises(ValueError, match=f"200 images but {len(some)} labels"):
            sensitivity(true, some)
    with pytest.raises(ValueError, match="the images' labels hold NaN"):
        sensitivity(true, np.where(labels == 1, np.nan, 0))
    with pytest.raises(ValueError, match="fields have no week; `geomoe.metadata.encode` gives week, hour, lat, lon"):
        sensitivity({name: true[name] for name in FIELDS if name != "week"}, labels)
    with pytest.raises(ValueError, match="fields have no week, hour, lat, lon; "):
        sensitivity([true[name] for name in FIELDS], labels)
    assert sensitivity(metadata.Metadata(**true), labels) == sensitivity(true, labels)
    with pytest.raises(ValueError, match=r"lat must be \(200, 2\), for so many images, got \(150, 2\)"):
        sensitivity({**true, "lat": true["lat"][:150]}, labels)


def test_metadata_that_an_embedding_holds_are_read_from_it():
    """Latitude's pair is in the embedding, half of longitude's sine beside other things, week and hour are not."""
    noise = np.random.default_rng(1).normal(size=(COUNT, 1)) * np.sqrt(0.5) / 2

    class Holds(Recorder):
        def embed_batch(self, images, fields, pool, size, valid):
            super().embed_batch(images, fields, pool, size, valid)
            given = fields[3][:, :1].any()
            return np.concatenate([fields[2], fields[3][:, :1] / 2 + noise * given, images[:, 0, 0]], axis=1)

    encoder, valid = Holds(True), RNG.random(IMAGES.shape[:3]) < 0.9
    read = metadata_probe(encoder, IMAGES, valid=valid, batch_size=COUNT)
    assert list(read.r2) == list(FIELDS) and read.r2["lat"] > 0.95 and max(read.r2["week"], read.r2["hour"]) < 0.1
    assert read.r2["lon"] == pytest.approx(0.25, abs=0.12)  # of the sine half, of the cosine nothing
    np.testing.assert_array_equal(encoder.valid, valid)
    given, without = encoder.seen
    assert not any(without[name].any() for name in FIELDS) and sorted(given) == sorted(FIELDS)
    week, hour, lat, lon = (angles(given[name]) for name in FIELDS)
    assert np.ptp(lat) > 170 and np.abs(lat).max() <= 90 and min(np.ptp(week), np.ptp(hour), np.ptp(lon)) > 345
    z = Holds(True).embed_batch(IMAGES, [given[name] for name in FIELDS], "mean", COUNT, valid)
    assert read.share == pytest.approx(1 - IMAGES[:, 0, 0].var(axis=0).sum() / z.var(axis=0).sum(), abs=0.05)
    nothing = metadata_probe(Recorder(False), IMAGES, batch_size=COUNT)
    assert nothing.share == 0 and max(nothing.r2.values()) < 0.1
    with pytest.raises(ValueError, match="got 3 images"):
        metadata_probe(Recorder(False), IMAGES[:3])


def test_what_embeddings_hold_is_scored_on_other_images_than_fitted_on():
    """With as many features as images a fit on the same ones reads anything from noise."""
    noise = np.random.default_rng(2).normal(size=(COUNT, COUNT))

    class Noise:
        def embed_batch(self, images, fields, pool, size, valid):
            return noise

    assert max(metadata_probe(Noise(), IMAGES, batch_size=COUNT).r2.values()) < 0


def test_what_is_no_number_of_these_images_is_refused():
    valid, masked = np.ones(IMAGES.shape[:3], bool), np.ma.masked_greater(IMAGES, 2)
    holed = np.where(np.arange(COUNT)[:, None, None, None] == 3, np.nan, IMAGES)
    for measure in (
        metadata_probe,
        lambda encoder, images, **options: metadata_sensitivity(encoder, images, fields(), **options),
    ):
        for images, options, message in (
            (IMAGES, dict(valid=valid[:20]), r"valid must be \(200, 4, 4\), as the images are, got \(20, 4, 4\)"),
            (masked, {}, "images are masked in .* of 200 rows"),
            (holed, {}, "images hold NaN or infinite values in 1 of 200 rows"),
            (IMAGES, dict(pool="tokens"), "pool = 'tokens' gives every token"),
            (IMAGES, dict(batch_size=0), "batch_size = 0 must be a whole number"),
        ):
            with pytest.raises(ValueError, match=message):
                measure(Recorder(False), images, **options)
    unknown = metadata.Metadata(**fields())
    for week, message in ((unknown.week * np.nan, "week hold NaN"), (np.ma.masked_less(unknown.week, 0), "week are masked in")):
        with pytest.raises(ValueError, match=rf"{message}.*\[0, 0\] is what is not known"):
            metadata_sensitivity(Recorder(False), IMAGES, unknown._replace(week=week))


def test_nan_is_taken_where_it_is_said_that_there_is_no_data():
    class Shown:
        def embed_batch(self, images, fields, pool, size, valid):
            return np.where(valid[..., None], images, 0).mean(axis=(1, 2))

    valid = RNG.random(IMAGES.shape[:3]) < 0.9
    holed = np.where(valid[..., None], IMAGES, np.nan)
    assert metadata_probe(Shown(), holed, valid=valid) == metadata_probe(Shown(), IMAGES, valid=valid)
    metadata_sensitivity(Shown(), holed, fields(), valid=valid)

"""Scores on held-out sources without anybody's labels: what the pixels themselves say, few labels, and the same place again.

- Free labels, of three kinds (`geomoe.experiments.free_labels`). A probe is fitted on windows of one half of an image and
  scored on the other half, which no window of the first touches.
- Few labels: 30 of those windows, many paired draws: the same draws for every set of features.
- Retrieval: of a window of a place, is the nearest window of all other images the same ground on another date, or by another
  sensor? Cosines of features that are standardised over all windows.

Nothing here sees landsat_sample, which is for a final table alone. Axes: N windows, D features, K classes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from sklearn.metrics import average_precision_score

from geomoe import data, landsat
from geomoe.data.corpus import HELD_OUT, Source
from geomoe.experiments.free_labels import classes_shown, index_thirds, labels_of_another
from geomoe.metadata import FIELDS
from geomoe.models.pooling import Pool
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.config import BANDS, RCF
from geomoe.probing.features import GaussianConvFeatures, RandomConvFeatures, band_statistics
from geomoe.probing.linear import fit_logistic
from geomoe.probing.tables import markdown_table
from geomoe.training.losses.oriented_gradients import oriented_gradients

INDICES, CLASSES, ANOTHER_DATE = KINDS = "indices", "classes", "another date"  # of free labels
_STRENGTHS = (0.01, 0.1, 1.0)  # C, of which the best over all sources is taken, for each kind of labels and set of features


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of one held-out source, z-scored by its own statistics."""

    source: Source
    images: np.ndarray  # (N, S, S, C)
    statistics: landsat.Statistics  # of their z-score, in Collection 2 digital numbers
    valid: np.ndarray  # (N, S, S)
    metadata: list[np.ndarray]  # week, hour, lat, lon (N, 2)
    corner: np.ndarray  # (N, 2), row and column of the upper left pixel
    labels: Mapping[str, np.ndarray]  # kind of free labels -> (N, K) 0/1


Features = Callable[[Windows], np.ndarray]  # -> (N, D)


def load_windows(source: Source, data_dir: str) -> Windows:
    """Load a prepared held-out source."""
    builder = data.builder(source.dataset, data_dir)
    statistics = data.compute_statistics(builder, "train")
    batches = list(data.load(builder, "train", batch_size=4096, statistics=statistics).as_numpy_iterator())
    fields = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    reflectance = statistics.unnormalize(fields["image"]) * landsat.REFLECTANCE_SCALE + landsat.REFLECTANCE_OFFSET
    corner = np.array([[int(number) for number in name.decode().rsplit("_", 2)[1:]] for name in fields["id"]])
    metadata = [fields[name] for name in FIELDS]
    labels = {INDICES: index_thirds(reflectance, fields["valid"])}
    labels[CLASSES] = classes_shown(fields["image"], fields["valid"], corner)
    return Windows(source, fields["image"], statistics, fields["valid"], metadata, corner, labels)


def with_another_date(all_windows: Sequence[Windows]) -> list[Windows]:
    """Add to the windows of each source of a place the classes that they show in the place's other images."""
    out = []
    for windows in all_windows:
        others = [w for w in all_windows if w is not windows and w.source.place == windows.source.place != ""]
        found = [labels_of_another(windows.corner, other.corner, other.labels[CLASSES]) for other in others]
        known = [labels for labels in found if labels is not None]
        added = {ANOTHER_DATE: np.concatenate(known, axis=1)} if known else {}
        out.append(dataclasses.replace(windows, labels={**windows.labels, **added}))
    return out


def encoder_features(
    encoder: PretrainedEncoder, pool: Pool = "mean", metadata: bool = False, own_statistics: bool = True
) -> Features:
    """Embeddings by an encoder.

    Args:
        metadata: whether it is given the windows' metadata.
        own_statistics: whether the images are z-scored by their source's statistics, which is statistics="computed" for a user,
            or by the encoder's.
    """

    def features(windows: Windows) -> np.ndarray:
        given = windows.metadata if metadata else [np.zeros_like(value) for value in windows.metadata]
        images = windows.images
        if not own_statistics:
            images = encoder.statistics.normalize(windows.statistics.unnormalize(images))
        return embed_in_batches(encoder, images, given, pool, 64, windows.valid)

    return features


def draw_halves(windows: Windows, labelled: int | None, draws: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit on and rows to score on, of two halves of the image that share no pixel; the same for the same windows.

    Args:
        labelled: rows to fit on; None is all of a half.
    """
    side, parts = windows.images.shape[1], []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        along = windows.corner[:, rng.integers(2)]
        middle = (along.min() + along.max() + side) // 2
        first, second = np.flatnonzero(along + side <= middle), np.flatnonzero(along >= middle)
        train, test = (second, first) if rng.integers(2) else (first, second)
        parts.append((rng.permutation(train)[:labelled], test))
    return parts


def probe_scores(windows: Windows, kind: str, features: np.ndarray, labelled: int | None, draws: int) -> np.ndarray:
    """Macro mAP of a logistic regression on standardised features, by draw and strength: (draws, 3).

    Classes that are in none or all of the rows fitted on or scored on do not count in a draw.

    Args:
        kind: of free labels.
    """
    scores, labels = [], windows.labels[kind]
    for train, test in draw_halves(windows, labelled, draws):
        y, tested = labels[train], labels[test]
        mixed = (y.any(axis=0) & ~y.all(axis=0)) & (tested.any(axis=0) & ~tested.all(axis=0))
        models = fit_logistic(features[train], y[:, mixed], task="multilabel", C=_STRENGTHS, standardise=True)
        probabilities = [model.probabilities(features[test]) for model in models]
        scores.append([average_precision_score(tested[:, mixed], p, average="macro") for p in probabilities])
    return np.array(scores)


def retrieval(all_windows: Sequence[Windows], features: Sequence[np.ndarray]) -> tuple[float, float]:
    """Shares of windows whose nearest one in all other images shows the same place, and the very same ground.

    Windows side by side alone take part, at least half of whose pixels hold data; queries are those of places with several
    images, sought among those of all sources.
    """
    rows, names = [], []
    for windows, z in zip(all_windows, features):
        first, side = windows.corner.min(axis=0), windows.images.shape[1]
        apart = ((windows.corner - first) % side == 0).all(axis=1) & (windows.valid.mean(axis=(1, 2)) >= 0.5)
        rows.append(z[apart])
        names += [(windows.source.name, windows.source.place, *corner) for corner in windows.corner[apart].tolist()]
    z = np.concatenate(rows).astype(np.float64)
    if not np.isfinite(z).all():
        raise ValueError("a window has features that are not finite, which is near to no other; retrieval wants numbers")
    z = (z - z.mean(axis=0)) / (z.std(axis=0) + 1e-6)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    similarity, image = z @ z.T, np.array([name for name, *_ in names])
    found = []
    for row, (name, place, *corner) in enumerate(names):
        if place:
            _, other, *there = names[int(np.argmax(np.where(image == name, -np.inf, similarity[row])))]
            found.append((other == place, other == place and there == corner))
    same_place, same_ground = np.mean(found, axis=0)
    return float(same_place), float(same_ground)


class HeldOutScore(NamedTuple):
    """Scores of one set of features; the keys are (kind of free labels, source)."""

    few: dict[tuple[str, str], np.ndarray]  # macro mAP of each draw of 30 labelled windows
    full: dict[tuple[str, str], float]  # macro mAP with all windows of a half labelled
    same_place: float
    same_ground: float


def score_features(
    features: Features, all_windows: Sequence[Windows], *, labelled: int = 30, draws: int = 20, min_windows: int = 100
) -> HeldOutScore:
    """Score one set of features on all held-out sources; those with fewer than `min_windows` take part in retrieval alone."""
    embedded = [features(windows) for windows in all_windows]
    scores: list[dict[tuple[str, str], np.ndarray]] = [{}, {}]
    for (some, count), found in zip(((labelled, draws), (None, 4)), scores):
        for kind in KINDS:
            probed = [(w, z) for w, z in zip(all_windows, embedded) if len(w.images) >= min_windows and kind in w.labels]
            if not probed:
                continue
            by_source = {w.source.name: probe_scores(w, kind, z, some, count) for w, z in probed}
            best = int(np.argmax(np.mean([draw.mean(axis=0) for draw in by_source.values()], axis=0)))
            found |= {(kind, name): draw[:, best] for name, draw in by_source.items()}
    full = {key: float(draw.mean()) for key, draw in scores[1].items()}
    return HeldOutScore(scores[0], full, *retrieval(all_windows, embedded))


def load_held_out(data_dir: str) -> list[Windows]:
    """Load every held-out source of the corpus.

    Raises:
        DatasetNotPreparedError: one is not prepared.
    """
    try:
        return with_another_date([load_windows(source, data_dir) for source in HELD_OUT])
    except data.DatasetNotPreparedError as error:
        command = f"`python -m geomoe.cli.corpus --prepare FOLDER --data_dir {data_dir}`"
        raise data.DatasetNotPreparedError(f"{data_dir} lacks an image of the corpus; {command} cuts them all") from error


def paired_difference(a: HeldOutScore, b: HeldOutScore) -> dict[tuple[str, str], tuple[float, float]]:
    """Mean of the paired differences a - b with few labels, and its standard error, by kind of labels and source."""
    out = {}
    for key in a.few:
        difference = a.few[key] - b.few[key]
        out[key] = float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
    return out


def gradient_layout(windows: Windows, cell: int = 4) -> np.ndarray:
    """Where the edges of a window are and how they run: the oriented gradients of its cells side by side, (N, cells * 9)."""
    cells, _ = oriented_gradients(jnp.asarray(windows.images), jnp.asarray(windows.valid), cell)
    layout = np.asarray(cells).reshape(len(windows.images), -1)
    return layout - layout.mean(axis=1, keepdims=True)


def joined(all_windows: Sequence[Windows]) -> tuple[np.ndarray, np.ndarray]:
    """The images of all sources, (N, S, S, C), and which of their pixels hold data, (N, S, S)."""
    images, valid = (np.concatenate([getattr(w, name) for w in all_windows]) for name in ("images", "valid"))
    return images, valid


def baselines(all_windows: Sequence[Windows]) -> dict[str, Features]:
    """Features without training: band statistics, random convolutional features of two kinds of filters, and edges."""
    images, valid = joined(all_windows)
    filters, gaussian = RandomConvFeatures(images, valid=valid), GaussianConvFeatures(images.shape[-1])
    return {
        BANDS: lambda w: band_statistics(w.images, w.valid),
        RCF: lambda w: filters(w.images, w.valid),
        f"{RCF}, Gaussian filters": lambda w: gaussian(w.images, w.valid),
        "oriented gradients": gradient_layout,
    }


def table(scores: Mapping[str, HeldOutScore], labelled: int) -> str:
    """In Markdown, a row for each set of features: macro mAP of each kind of labels, the mean of the sources, and retrieval."""
    kinds = list(dict.fromkeys(kind for kind, _ in next(iter(scores.values())).few))
    header = [f"{kind}, {count}" for kind in kinds for count in (labelled, "all")]
    rows = []
    for name, score in scores.items():
        both = {key: draws.mean() for key, draws in score.few.items()}, score.full
        means = [np.mean([value for key, value in values.items() if key[0] == kind]) for kind in kinds for values in both]
        rows.append([name, *(f"{v:.3f}" for v in means), f"{score.same_place:.2f}", f"{score.same_ground:.2f}"])
    return markdown_table(["features", *header, "same place", "same ground"], rows, text=1)

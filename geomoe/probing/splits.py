"""What probes take: features with labels or targets, checked; and which rows they are fitted and scored on."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from geomoe.checks import check_count
from geomoe.data.arrays import as_numpy
from geomoe.embeddings.files import check_alike, read_facts, read_features
from geomoe.probing.metrics import as_array, as_numbers, check_finite, check_task, check_unmasked, one_hot

Rows = tuple[np.ndarray, np.ndarray]  # features (N, D) and labels or targets (N, K)
# features (N, D) and labels, (N, K) 0/1 or (N,) class indices; or a file of embeddings that `geomoe.cli.embed` wrote
Split = Rows | str | os.PathLike
_FEW_CLASSES = 5000  # labels above are taken for codes, unless a tenth of the classes up to the highest occur
_TO_INDICES = "names, indices = np.unique(labels, return_inverse=True) of all splits together gives them"
_OF_ONE_KIND = ("encoder_sha256", "pool", "classes")  # facts that files of embeddings must share
EARTH_RADIUS_KM = 6371.0088  # mean radius of the International Union of Geodesy and Geophysics


def _read(splits: Mapping[str, Split | None], kind: str = "labels") -> dict[str, Rows]:
    """Features, float32 or float64 as they are, and labels or targets of each split that is not None.

    Raises:
        ValueError: features are no real numbers, or something is masked, sparse or of rows of unequal length.
    """
    facts_of_files(splits)
    read = {name: read_features(s) if isinstance(s, str | os.PathLike) else s for name, s in splits.items() if s is not None}
    for name, (features, labels) in read.items():
        for what, values in (("features", features), (kind, labels)):
            if hasattr(values, "toarray"):
                raise ValueError(f"{name} {what} are a sparse matrix; pass {what}.toarray()")
        check_unmasked(f"{name} features", features, "leave these rows out, or fill them")
        check_unmasked(f"{name} {kind}", labels)
    return {name: (as_numbers(f"{name} features", x), _array(f"{name} {kind}", y)) for name, (x, y) in read.items()}


def _array(what: str, values: Any) -> np.ndarray:
    try:
        return as_array(values)
    except ValueError as error:
        raise ValueError(f"{what} must be an array, or rows of equal length ({error})") from None


def facts_of_files(splits: Mapping[str, Split | None]) -> dict[str, Any]:
    """What files of embeddings among splits say of themselves, for a fitted model: encoder, pool, classes, input.

    Raises:
        ValueError: two files are of other encoders, pools or classes, so that a probe of one says nothing of the other.
    """
    files = [(os.fspath(split), read_facts(split)) for split in splits.values() if isinstance(split, str | os.PathLike)]
    for other in files[1:]:
        check_alike(
            files[0], other, _OF_ONE_KIND, "a probe takes files of one encoder, pool and list of classes, embedded alike"
        )
    facts = files[0][1] if files else {}
    return {key: facts[key] for key in ("encoder", *_OF_ONE_KIND, "input") if key in facts}


def labelled_splits(task: str, splits: Mapping[str, Split | None]) -> dict[str, Rows]:
    """Check splits and bring their labels to one width; a split that is None is left out.

    Labels (N, 1), a column of a table, are class indices where the task is "multiclass", and one class where it is
    "multilabel".

    Returns:
        name -> features (N, D) float32 and labels (N, K) 0/1 int32.

    Raises:
        ValueError: shapes or labels do not fit the task, or a feature is NaN or masked; the message names the split.
    """
    check_task(task)
    out = _read(splits)
    for name, (features, labels) in out.items():
        if features.ndim != 2:
            raise ValueError(f"{name} features must be (N, D), got {features.shape}")
        if labels.ndim not in (1, 2):
            raise ValueError(f"{name} labels must be (N,) or (N, K), got {labels.shape}")
        if len(features) != len(labels):
            raise ValueError(f"{name}: {len(features)} features but {len(labels)} labels")
        if not features.size or not labels.size:
            raise ValueError(f"{name} is empty: features {features.shape}, labels {labels.shape}")
        if task == "multiclass" and labels.shape[1:] == (1,):  # a column of a table
            labels = labels[:, 0]
        check_finite(f"{name} features", features)
        _check_present(f"{name} labels", labels)
        if labels.dtype.kind in "SUOT" and any(isinstance(label, str | bytes) for label in labels.reshape(-1)):
            raise ValueError(f"{name} labels are text; pass class indices: {_TO_INDICES}")
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError(f"{name} labels hold NaN or infinite values; leave the rows without a label out")
        try:
            if labels.dtype.kind in "cmM":
                raise TypeError
            whole = labels.astype(np.int64)
        except (TypeError, ValueError):
            raise ValueError(f"{name} labels must be class indices or 0/1, got {labels.dtype}") from None
        if labels.dtype.kind not in "iub" and not np.array_equal(labels, whole):
            raise ValueError(f"{name} labels must be class indices or 0/1, got {labels.dtype}")
        if whole.min() < 0 or (whole.ndim == 2 and whole.max() > 1):
            raise ValueError(f"{name} labels must be class indices (N,) from 0, or (N, K) of 0 and 1")
        out[name] = features.astype(np.float32, copy=False), whole
    classes = _count_classes([labels for _, labels in out.values() if labels.ndim == 1])
    for name, (features, labels) in out.items():
        out[name] = features, (one_hot(labels, classes) if labels.ndim == 1 else labels.astype(np.int32))
    _check_widths(out)
    for name, (_, y) in out.items():
        if task == "multiclass" and not (y.sum(axis=1) == 1).all():
            raise ValueError(f"task 'multiclass' needs exactly one label a row; {name} has others")
    return out


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, which differs from itself, or pandas' NA, which cannot say whether it does."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def _check_present(what: str, values: np.ndarray) -> None:
    """Raise ValueError where one of several Python objects is missing."""
    if values.dtype.kind == "O" and any(map(is_missing, values.reshape(-1))):
        raise ValueError(f"{what} are missing (None, NaN or NA) in some rows; leave these rows out")


def _count_classes(indices: Sequence[np.ndarray]) -> int:
    """The number of classes of rows with these class indices, 0 without any; ValueError where they are codes of classes."""
    found = np.unique(np.concatenate(indices)) if indices else np.zeros(0, np.int64)
    count = int(found[-1]) + 1 if len(found) else 0
    if count > max(_FEW_CLASSES, 10 * len(found)):
        few = f"labels of {len(found)} classes go up to {found[-1]}"
        raise ValueError(f"{few}; they are codes, where class indices from 0 are needed: {_TO_INDICES}")
    return count


def regression_splits(splits: Mapping[str, Split | None]) -> dict[str, Rows]:
    """Check splits with real targets: name -> features (N, D) and targets (N, K), float64; None is left out."""
    out = _read(splits, "targets")
    for name, (x, y) in out.items():
        if y.dtype.kind in "mM":
            raise ValueError(f"{name} targets are {y.dtype}; say as numbers what they count, days since a date, say")
        if x.ndim != 2 or y.ndim not in (1, 2) or len(x) != len(y):
            raise ValueError(f"{name}: features {x.shape} and targets {y.shape} do not fit together")
        if not x.size or not y.size:
            raise ValueError(f"{name} is empty: features {x.shape}, targets {y.shape}")
        _check_present(f"{name} targets", y)
        features = x.astype(np.float64)
        targets = as_numbers(f"{name} targets", y).astype(np.float64).reshape(len(y), -1)
        check_finite(f"{name} features", features)
        check_finite(f"{name} targets", targets)
        out[name] = features, targets
    _check_widths(out)
    return out


def _check_widths(splits: Mapping[str, Rows]) -> None:
    """Raise ValueError where the features, or the labels or targets, of two splits differ in width."""
    first_x, first_y = next(iter(splits.values()))
    for name, (x, y) in splits.items():
        if x.shape[1] != first_x.shape[1] or y.shape[1] != first_y.shape[1]:
            raise ValueError(f"train {first_x.shape}, {first_y.shape} and {name} {x.shape}, {y.shape} differ in width")


def positive(name: str, values: float | Sequence[float]) -> list[float]:
    """Give numbers, one or several, as a list; ValueError where there is none, or one is not finite and above 0."""
    try:
        numbers = np.ravel(values).astype(np.float64)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if not numbers.size or not (np.isfinite(numbers) & (numbers > 0)).all():
        raise ValueError(f"{name} = {values} must be positive, one number or several")
    return [float(number) for number in numbers]


def strength_grid(name: str, value: float | str | Sequence[float], sweep: Sequence[float]) -> tuple[list[float], bool]:
    """Give strengths of regularisation (a number, several, or "sweep") in rising order, and whether to choose among them.

    >>> strength_grid("C", (1.0, 0.1), ()), strength_grid("C", "sweep", (1.0, 2.0)), strength_grid("C", 3.0, ())
    (([0.1, 1.0], True), ([1.0, 2.0], True), ([3.0], False))
    """
    if isinstance(value, str):
        if value != "sweep":
            raise ValueError(f"{name} = {value!r} is not a number, a sequence or 'sweep'")
        return sorted(sweep), True
    return sorted(positive(name, value)), np.ndim(value) > 0


class Fold(NamedTuple):
    """Indices of the rows that a probe is fitted on, and of those that it is scored on."""

    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Folds:
    """Folds of a cross-validation: every row is in the test rows of one. scikit-learn takes them as `cv`.

    Attributes:
        parts: the folds.
        settings: how they were drawn, for results: "splits" ("random", "stratified", "spatial" or "group"), "folds", "seed" ...
        holdout: of some rows, those of a fold to fit on, holds out about a fifth to choose C on, by whole blocks or groups:
            a `Fold` of indices into them. None: any rows do.
    """

    parts: tuple[Fold, ...]
    settings: Mapping[str, Any]
    holdout: Callable[[np.ndarray], Fold] | None = None

    def __iter__(self) -> Iterator[Fold]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def _generator(seed: int) -> np.random.Generator:
    check_count("seed", seed)
    return np.random.default_rng(seed)


def _without(rows: int, tests: Sequence[np.ndarray], **settings: Any) -> Folds:
    """Folds with these test rows, that are each fitted on all others."""
    parts = tuple(Fold(np.setdiff1d(np.arange(rows), test), np.sort(test)) for test in tests)
    return Folds(parts, {**settings, "folds": len(parts)})


def _check_count(count: int, rows: int, what: str = "rows") -> None:
    if not isinstance(count, int | np.integer) or not 2 <= count <= rows:
        raise ValueError(f"folds = {count} must be between 2 and the {rows} {what}, a whole number")


def random_folds(rows: int, count: int = 5, seed: int = 0) -> Folds:
    """Divide a number of rows at random into `count` folds of about equal size.

    Raises:
        ValueError: `count` is below 2 or above the number of rows.
    """
    _check_count(count, rows)
    order = _generator(seed).permutation(rows)
    return _without(rows, np.array_split(order, count), splits="random", seed=seed)


def stratified_folds(labels: np.ndarray, count: int = 5, seed: int = 0) -> Folds:
    """Divide rows at random into `count` folds, in each of which every class has about its share.

    Rows with one label each are dealt out class by class; others by iterative stratification, the rarest class first (Sechidis
    et al. 2011, "On the Stratification of Multi-Label Data", algorithm 1).

    Args:
        labels: (N,) class indices, or (N, K) 0/1.

    Raises:
        ValueError: `count` is below 2 or above the number of rows, or labels are neither.
    """
    check_unmasked("labels", labels)
    labels = np.asarray(labels)
    if labels.ndim not in (1, 2) or labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be class indices (N,), or (N, K) of 0 and 1, got {labels.shape}")
    if any(map(is_missing, labels if labels.ndim == 1 else ())):
        raise ValueError("labels are missing (None, NaN or NA) in some rows; leave these rows out")
    _check_count(count, len(labels))
    rng = _generator(seed)
    order = rng.permutation(len(labels))
    if labels.ndim == 2 and not (labels.sum(axis=1) == 1).all():
        tests = _iterative_stratification(labels[order].astype(bool), count, rng)
        return _without(len(labels), [order[test] for test in tests], splits="stratified", seed=seed)
    classes = labels if labels.ndim == 1 else labels.argmax(axis=1)
    order = order[np.argsort(classes[order], kind="stable")]
    return _without(len(labels), [order[i::count] for i in range(count)], splits="stratified", seed=seed)


def _iterative_stratification(labels: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows (N, K) bool, in the order in which they are dealt out -> the rows of each fold."""
    fold = np.full(len(labels), -1)
    room = np.full(count, len(labels) / count)  # rows that each fold still lacks
    wanted = np.tile(labels.sum(axis=0) / count, (count, 1))  # and of each class
    while (left := fold < 0).any():
        rows_of_class = labels[left].sum(axis=0)
        if rows_of_class.any():
            rarest = np.flatnonzero(rows_of_class)[np.argmin(rows_of_class[rows_of_class > 0])]
            rows, lack = np.flatnonzero(left & labels[:, rarest]), wanted[:, rarest]
        else:  # what has no label
            rows, lack = np.flatnonzero(left), np.zeros(count)
        for row in rows:
            chosen = np.lexsort((rng.random(count), -room, -lack))[0]
            fold[row] = chosen
            room[chosen] -= 1
            wanted[chosen] -= labels[row]
    return [np.flatnonzero(fold == i) for i in range(count)]


def given_folds(folds: Any, features: np.ndarray, labels: np.ndarray) -> Folds:
    """Folds as scikit-learn has them: pairs of training and test rows, indices or masks, or a splitter that gives them.

    Args:
        features, labels: for a splitter, (N, D) and what it divides by: class indices (N,), or (N, K) 0/1.

    Raises:
        ValueError: they are something else.
    """
    try:
        pairs = [Fold(*pair) for pair in (folds.split(features, labels) if hasattr(folds, "split") else folds)]
    except (TypeError, ValueError) as error:
        taken = "folds must be of geomoe.probing, as group_folds(groups), a splitter, or pairs of training and test rows"
        raise ValueError(f"{taken} ({error})") from None
    parts = tuple(Fold(*(_indices(rows, len(features), i) for rows in fold)) for i, fold in enumerate(pairs))
    return Folds(parts, {"splits": "given", "folds": len(parts)})


def _indices(rows: Any, count: int, number: int) -> np.ndarray:
    """Rows of a fold of `count` rows, given by a mask or by their indices, as indices."""
    rows = _array(f"the rows of fold {number}", rows)
    if rows.dtype == bool and rows.shape != (count,):
        raise ValueError(f"a mask of fold {number} is {rows.shape}, and there are {count} rows; give one value a row")
    return np.flatnonzero(rows) if rows.dtype == bool else rows


def check_folds(folds: Folds, count: int) -> None:
    """Check the folds of `count` rows.

    Raises:
        ValueError: rows of a fold are no indices of them, occur twice or are fitted and scored both, or the folds do not test
            every row once.
    """
    for number, fold in enumerate(folds):
        for which, rows in zip(("training", "test"), fold):
            what = f"the {which} rows of fold {number}"
            if rows.ndim != 1 or not rows.size:
                raise ValueError(f"{what} must be indices (n,), one at least, got {rows.shape}")
            if rows.dtype.kind not in "iu":
                raise ValueError(f"{what} must be indices, or a mask that is bool, got {rows.dtype}")
            if rows.min() < 0 or rows.max() >= count:
                span = f"go from {rows.min()} to {rows.max()}"
                raise ValueError(f"{what} {span}, and there are {count} rows, from 0: the folds are of other rows")
            times = np.bincount(rows)
            if times.max() > 1:
                twice = f"row {times.argmax()} {times.max()} times"
                raise ValueError(f"{what} have {twice}; give each once, or, if they are a mask, mask.astype(bool)")
        both = np.intersect1d(*fold)
        if both.size:
            which = f"{both.size} rows, row {both[0]} the first, are training and test rows both"
            raise ValueError(f"{which} in fold {number}; what is fitted on a row cannot be scored on it: leave them out of one")
    times = np.bincount(np.concatenate([fold.test for fold in folds]), minlength=count) if len(folds) else np.zeros(count, int)
    if (times != 1).any():
        row = int(np.flatnonzero(times != 1)[0])
        needed = "the folds must test every row once, as those of KFold do and of ShuffleSplit and RepeatedKFold do not"
        raise ValueError(f"{needed}: they test row {row} of {count} {times[row]} times")


def group_folds(groups: Sequence[Any] | np.ndarray, count: int = 5, seed: int = 0) -> Folds:
    """Divide rows at random into `count` folds of about equal size, no group being in two: the patches of a scene, of a site.

    Args:
        groups: (N,) text or numbers, or tuples of them, the group of each row; or (N, M), as columns of a table.

    Raises:
        ValueError: there are fewer groups than folds, or a row has none or a part of one (None, an empty text, NaN, NA).
    """
    check_unmasked("groups", groups)
    rows = groups if isinstance(groups, list | tuple) else np.asarray(as_numpy(groups))
    rows = [row.item() if hasattr(row, "item") and np.ndim(row) == 0 else row for row in rows]
    groups = [tuple(row) if isinstance(row, list | tuple | np.ndarray) else row for row in rows]
    none = [any(is_missing(x) or x == "" for x in (group if isinstance(group, tuple) else (group,))) for group in groups]
    if any(none):
        raise ValueError(f"{sum(none)} of {len(groups)} rows have no group")
    kinds = {type(group) for group in groups}
    names = sorted(set(groups), key=repr if len(kinds) > 1 or tuple in kinds else None)
    numbers = {name: number for number, name in enumerate(names)}
    index = np.array([numbers[group] for group in groups], int)
    _check_count(count, len(names), "groups")
    tests = _deal_out(index, len(names), count, _generator(seed))
    folds = _without(len(groups), tests, splits="group", groups=len(names), seed=seed)
    return dataclasses.replace(folds, holdout=lambda rows: _hold_out(index[rows], seed, "group"))


def _deal_out(index: np.ndarray, groups: int, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The rows (N,) of `groups` groups, dealt out at random, each group to the fold that has the fewest rows by then."""
    sizes, fold_of, rows = np.bincount(index, minlength=groups), np.zeros(groups, int), np.zeros(count)
    for group in rng.permutation(groups):
        fold_of[group] = np.argmin(rows)
        rows[fold_of[group]] += sizes[group]
    return [np.flatnonzero(fold_of[index] == i) for i in range(count)]


def _hold_out(index: np.ndarray, seed: int, what: str) -> Fold:
    """Hold out about a fifth of rows, of which `index` (N,) says the group or block."""
    names, index = np.unique(index, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"the rows to fit on of a fold are of one {what}, so that none can be held out to choose C on; give C")
    held = _deal_out(index, len(names), min(5, len(names)), _generator(seed))[0]
    return Fold(np.setdiff1d(np.arange(len(index)), held), held)


def spatial_folds(
    latitude: np.ndarray,
    longitude: np.ndarray,
    count: int = 5,
    seed: int = 0,
    *,
    block_km: float = 50.0,
    buffer_km: float = 0.0,
) -> Folds:
    """Divide rows into `count` folds by blocks of the Earth's surface, so that a row's neighbours are in its own fold.

    Blocks are about square: bands of latitude, each cut into equal steps of longitude, all shifted at random by `seed`. A block
    goes to one fold as a whole. Rows nearer to a test row than `buffer_km`, on the sphere, are not fitted on in that fold.

    Args:
        latitude, longitude: (N,) degrees.
        block_km: side of a block.
        buffer_km: width of the buffer; 0 for none.

    Raises:
        ValueError: a location is unknown or impossible, there are fewer blocks than folds, or the buffer leaves nothing to fit
            on.

    >>> folds = spatial_folds([0.0, 0.1, 40.0, 40.1], [179.95, -179.95, 10.0, 10.1], 2, block_km=500)
    >>> sorted(fold.test.tolist() for fold in folds)
    [[0, 1], [2, 3]]
    """
    for name, degrees in (("latitude", latitude), ("longitude", longitude)):
        check_unmasked(f"values of {name}", degrees)
    latitude, longitude = np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)
    if latitude.ndim != 1 or latitude.shape != longitude.shape:
        raise ValueError(f"latitude and longitude must be (N,) both, got {latitude.shape} and {longitude.shape}")
    if unknown := int(np.sum(~(np.isfinite(latitude) & np.isfinite(longitude)))):
        raise ValueError(f"{unknown} of {len(latitude)} rows have no location, which spatial folds need")
    if impossible := int(np.sum((np.abs(latitude) > 90) | (np.abs(longitude) > 360))):
        raise ValueError(f"{impossible} of {len(latitude)} rows have no latitude within 90 and longitude within 360 degrees")
    if not (0 < block_km < EARTH_RADIUS_KM and 0 <= buffer_km < EARTH_RADIUS_KM):
        limits = f"both below the Earth's radius, {EARTH_RADIUS_KM:.0f}"
        raise ValueError(f"block_km = {block_km} must be above 0 and buffer_km = {buffer_km} 0 or more, {limits}")
    rng = _generator(seed)
    shift = rng.random(2)
    degrees = np.degrees(block_km / EARTH_RADIUS_KM)  # of latitude, a side of a block
    band = np.floor((latitude + 90) / degrees + shift[0])
    middle = np.clip((band + 0.5 - shift[0]) * degrees - 90, -90, 90)
    steps = np.maximum(np.round(360 * np.cos(np.radians(middle)) / degrees), 1)  # blocks of a band, around the Earth
    column = np.floor((longitude / 360 + shift[1]) % 1 * steps) % steps
    names, index = np.unique(np.stack([band, column]), axis=1, return_inverse=True)
    blocks = names.shape[1]
    if blocks < count:
        raise ValueError(f"block_km = {block_km} makes {blocks} blocks of these rows, fewer than the {count} folds; lower it")
    _check_count(count, blocks, "blocks")
    index = index.reshape(-1)
    tests = _deal_out(index, blocks, count, rng)
    plain = _without(len(latitude), tests, splits="spatial", block_km=block_km, buffer_km=buffer_km, blocks=blocks, seed=seed)
    places = np.radians(np.stack([latitude, longitude], axis=1))

    def holdout(rows: np.ndarray) -> Fold:
        return _with_buffer(_hold_out(index[rows], seed, "block"), places[rows], buffer_km)

    return Folds(tuple(_with_buffer(fold, places, buffer_km) for fold in plain), plain.settings, holdout)


def _with_buffer(fold: Fold, places: np.ndarray, buffer_km: float) -> Fold:
    """Leave out of the rows to fit on those that are nearer than `buffer_km` to a test row; places (N, 2) in radians."""
    if not buffer_km:
        return fold
    from sklearn.neighbors import BallTree

    train, test = fold
    distance = BallTree(places[test], metric="haversine").query(places[train])[0][:, 0] * EARTH_RADIUS_KM
    if not (distance >= buffer_km).any():
        raise ValueError(f"buffer_km = {buffer_km} leaves no row to fit on in a fold of {len(test)} rows; lower it")
    return Fold(train[distance >= buffer_km], test)


def holdout(count: int, seed: int) -> Fold:
    """Draw a fifth of `count` rows to hold out: indices of the rows to fit on, and of those held out.

    Raises:
        ValueError: there are fewer than two, or the seed is none.
    """
    if count < 2:
        raise ValueError(f"none of {count} training rows can be held out to choose on; give val, or more rows")
    order = _generator(seed).permutation(count)
    size = max(int(round(0.2 * count)), 1)
    return Fold(order[size:], order[:size])


def validation_rows(
    train: Rows, val: Rows | None, seed: int, draw: Callable[[int, int], Fold] = holdout
) -> tuple[Rows, Rows, Rows]:
    """Give the rows to fit on, those to choose options on (without `val` drawn of the former), and both together."""
    x, y = train
    if val is not None:
        return train, val, (np.concatenate([x, val[0]]), np.concatenate([y, val[1]]))
    rows, rest = draw(len(x), seed)
    return (x[rows], y[rows]), (x[rest], y[rest]), train


def subset(count: int, fraction: float, seed: int) -> np.ndarray:
    """Draw a fraction of `count` rows, at least one: indices. Smaller fractions are parts of larger ones of the same seed."""
    return _generator(seed).permutation(count)[: max(int(round(fraction * count)), 1)]


def labelled_subset(
    labels: np.ndarray, seed: int, *, fraction: float | None = None, per_class: int | None = None
) -> np.ndarray:
    """Draw a fraction of the rows, with one of every class at least, or so many rows of each class: indices.

    Smaller subsets are parts of larger ones of the same seed. Labels are (N, K) 0/1.
    """
    order = _generator(seed).permutation(len(labels))
    least = per_class if per_class is not None else 1
    first = [order[np.flatnonzero(labels[order, k])[:least]] for k in range(labels.shape[1])]
    rows = np.unique(np.concatenate(first))
    if fraction is None:
        return rows
    rest = order[~np.isin(order, rows)]
    return np.concatenate([rows, rest[: max(int(round(fraction * len(labels))) - len(rows), 0)]])

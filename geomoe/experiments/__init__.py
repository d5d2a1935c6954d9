"""Recipes compared at equal wall time: each pretrained for the same minutes and probed in the same way, in one table.

The protocol for a small set of labelled patches: logistic regression on standardised features, 5 folds drawn by 3 seeds, the
folds of a seed scored together, the best of C = 0.01, 0.1, 1. Micro mAP is over all classes, macro mAP over those with at least
8 positives. Labels are used by the probe alone. `nested_choice` decides by nested folds which recipe and which readout to
take: the rows that a choice is scored on had no part in it.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import importlib.util
import os
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_collections
import numpy as np
from sklearn.metrics import average_precision_score

import geomoe
from geomoe import metadata
from geomoe.data import preprocess
from geomoe.models.pooling import check_pool, pool_width
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.baselines import RandomConvFeatures, band_statistics
from geomoe.probing.features import load_images
from geomoe.probing.linear import fit_logistic
from geomoe.probing.protocols import folds

if TYPE_CHECKING:
    from geomoe.training.loop import RunResult

STRENGTHS = (0.01, 0.1, 1.0)  # C
FOLDS, FOLD_SEEDS = 5, (0, 1, 2)
MIN_POSITIVES = 8
SMALL = 22  # side of the crops that are brought back to the model's size, in pixels
POOLS = ("mean", "unit_mean", "stages", "mean+metadata", "unit_mean+metadata", "stages+metadata")
VIEWS = ("as they are", "no place and time", f"{SMALL} x {SMALL}")
_TIMING_STEPS = 12
_BASELINES = ("place and time alone", "band statistics", "random convolutional features")
_TRANSFER = {"train": 768, "test": 384}  # patches of each split of the other dataset, at most


@dataclasses.dataclass(frozen=True)
class Score:
    """One row of the CSV: a readout of one pretrained encoder (or baseline) on one view of the patches.

    Attributes:
        recipe, seed: what was pretrained, and from which seed.
        minutes: asked for; `seconds` is what the steps took, without compiling.
        steps, images_per_second, least_used_expert: of the run; the last is a share of held-out tokens over an even share.
        pool, view: the readout ("tokens" is none), and one of `VIEWS`.
        micro, macro: mAP.
        transfer: micro mAP on another dataset, by a probe fitted there; NaN where there is none.
    """

    recipe: str
    seed: int
    minutes: float
    seconds: float
    steps: int
    images_per_second: float
    least_used_expert: float
    pool: str
    view: str
    micro: float
    macro: float
    transfer: float


def load_recipe(path: str | os.PathLike) -> ml_collections.ConfigDict:
    """The configuration of a recipe file: what its `get_config` gives.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it has no `get_config`.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no recipe {path}")
    spec = importlib.util.spec_from_file_location("recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} has no get_config()")
    return module.get_config()


def _metrics(workdir: str, column: str) -> list[float]:
    """A column of a run's metrics.csv, the rows that have it."""
    with open(os.path.join(workdir, "metrics.csv"), newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row[column]]


def steps_in(config: ml_collections.ConfigDict, minutes: float) -> int:
    """How many steps a run takes in so many minutes on this machine, compiling aside; measured on a few."""
    from geomoe.training import loop

    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.num_steps = _TIMING_STEPS
        config.log.every_steps = _TIMING_STEPS // 2
        config.log.eval_batches = 1
        config.log.images = 0
    with tempfile.TemporaryDirectory() as folder:
        _stop_unless_finished(loop.train(config, folder))
        rate = _metrics(folder, "images_per_second")[-1]
    return max(int(minutes * 60 * rate / config.train.batch_size), 1)


def _stop_unless_finished(result: RunResult) -> None:
    """A run that was told to stop ends the comparison as well; its checkpoint is there."""
    if not result.finished:
        raise SystemExit(f"stopped at step {result.step}; the same command goes on from there")


def pretrain(config: ml_collections.ConfigDict, minutes: float, seed: int, workdir: str) -> dict[str, float]:
    """A run of a recipe that takes about so many minutes: its facts. A finished run in the folder is taken as it is."""
    from geomoe.training import loop, read_run

    config = config.copy_and_resolve_references()
    there = os.path.exists(os.path.join(workdir, "run.json"))
    with config.unlocked():
        config.seed = seed
        config.train.num_steps = read_run(workdir)["total_steps"] if there else steps_in(config, minutes)
        config.log.eval_every_steps = config.checkpoint.every_steps = max(config.train.num_steps // 4, 1)
        config.log.images = 0
    _stop_unless_finished(loop.train(config, workdir))
    rates = _metrics(workdir, "images_per_second")
    rate = statistics.median(rates[1:] or rates)  # the first one is compiling
    facts = {"steps": config.train.num_steps, "images_per_second": rate}
    facts["seconds"] = config.train.num_steps * config.train.batch_size / rate
    return facts | {"least_used_expert": _metrics(workdir, "val_least_used_expert")[-1]}


@dataclasses.dataclass(frozen=True)
class Patches:
    """Labelled patches in memory, as a model takes them.

    Attributes:
        views: one of `VIEWS` but the metadata's -> (N, S, S, C) z-scored.
        valid: (N, S, S) of the first view.
        pairs: week, hour, lat, lon (N, 2).
        labels: (N, K) 0/1.
    """

    views: dict[str, np.ndarray]
    valid: np.ndarray
    pairs: list[np.ndarray]
    labels: np.ndarray


def load_patches(encoder: PretrainedEncoder, name: str, split: str, data_dir: str, **options: Any) -> Patches:
    """The patches of a split that have a label, cropped in the middle to the model's size and, for the small view, to 22 x 22
    first; `options` as for `geomoe.probing.load_images`."""
    whole = load_images(encoder, name, split, data_dir=data_dir, **options)
    small = load_images(encoder, name, split, data_dir=data_dir, img_size=SMALL, **options)
    rows = whole["labels"].any(axis=1)
    if not rows.any():
        raise ValueError(f"{name} split {split} has no labelled patch to probe on")
    size = encoder.config.img_size
    views = {VIEWS[0]: whole["image"][rows], VIEWS[2]: preprocess.resized(small["image"][rows], size, size)}
    pairs = [whole[key][rows] for key in metadata.FIELDS]
    return Patches(views, whole["valid"][rows], pairs, whole["labels"][rows])


def _embed(
    encoder: PretrainedEncoder, images: np.ndarray, pairs: Sequence[np.ndarray], pools: Sequence[str]
) -> dict[str, np.ndarray]:
    """Embeddings of several pools, in one pass through the encoder: pool -> (N, width)."""
    parts = list(dict.fromkeys(part for pool in pools for part in check_pool(pool)))
    joined = embed_in_batches(encoder, images, pairs, "+".join(parts), batch_size=32)
    ends = np.cumsum([pool_width(encoder.config, part) for part in parts])
    of_part = dict(zip(parts, np.split(joined, ends[:-1], axis=1)))
    return {pool: np.concatenate([of_part[part] for part in check_pool(pool)], axis=1) for pool in pools}


def _held_out(features: np.ndarray, labels: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Probabilities of each row by probes fitted without its part: (strengths, N, K)."""
    scores = np.zeros((len(STRENGTHS), *labels.shape))
    for part in parts:
        rest = np.setdiff1d(np.arange(len(labels)), part)
        models = fit_logistic(features[rest], labels[rest], task="multilabel", C=STRENGTHS, standardise=True)
        scores[:, part] = [model.probabilities(features[part]) for model in models]
    return scores


def _macro(labels: np.ndarray, scores: np.ndarray, frequent: np.ndarray) -> float:
    return average_precision_score(labels[:, frequent], scores[:, frequent], average="macro") if frequent.any() else 0.0


def cross_validated(features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Micro and macro mAP by the protocol above: (N, D), (N, K) 0/1."""
    frequent = labels.sum(axis=0) >= MIN_POSITIVES
    sums = np.zeros((len(STRENGTHS), 2))
    for seed in FOLD_SEEDS:
        for i, scores in enumerate(_held_out(features, labels, folds(labels, FOLDS, seed))):
            sums[i] += average_precision_score(labels, scores, average="micro"), _macro(labels, scores, frequent)
    micro, macro = sums[np.argmax(sums[:, 0])] / len(FOLD_SEEDS)
    return float(micro), float(macro)


def nested_choice(candidates: Mapping[str, np.ndarray], labels: np.ndarray) -> tuple[float, float, dict[str, int]]:
    """The score of choosing among features, not of the best of them.

    In each fold the candidate and its C are those with the highest micro mAP in cross-validation within the other folds; the
    fold is then scored by them.

    Args:
        candidates: name -> (N, D).
        labels: (N, K) 0/1.

    Returns:
        micro and macro mAP, and how often each candidate was chosen, the most frequent first.
    """
    frequent = labels.sum(axis=0) >= MIN_POSITIVES
    sums, chosen = np.zeros(2), collections.Counter()
    for seed in FOLD_SEEDS:
        scores = np.zeros(labels.shape)
        for part in folds(labels, FOLDS, seed):
            rest = np.setdiff1d(np.arange(len(labels)), part)
            inner = folds(labels[rest], FOLDS - 1, seed)
            best = None
            for name, features in candidates.items():
                values = _held_out(features[rest], labels[rest], inner)
                for strength, value in zip(STRENGTHS, values):
                    score = average_precision_score(labels[rest], value, average="micro")
                    if best is None or score > best[0]:
                        best = score, name, strength
            _, name, strength = best
            chosen[name] += 1
            options = dict(task="multilabel", C=strength, standardise=True)
            scores[part] = fit_logistic(candidates[name][rest], labels[rest], **options)[0].probabilities(
                candidates[name][part]
            )
        sums += average_precision_score(labels, scores, average="micro"), _macro(labels, scores, frequent)
    micro, macro = sums / len(FOLD_SEEDS)
    return float(micro), float(macro), dict(chosen.most_common())


class Bench:
    """The patches that recipes are scored on, and those of another dataset that the embeddings are tried on as well.

    Args:
        name, split, data_dir: a prepared dataset with labels.
        transfer: another prepared dataset with labels and splits "train" and "test", z-scored by its own statistics; "" for
            none.
        encoder: whose image side and statistics the patches are brought to.
    """

    def __init__(self, encoder: PretrainedEncoder, name: str, split: str, data_dir: str, transfer: str):
        self.statistics = encoder.statistics
        self.patches = load_patches(encoder, name, split, data_dir)
        self.transfer = None
        if transfer:
            from geomoe import data

            other = data.builder(transfer, data_dir)
            own = data.compute_statistics(other, "train")
            parts = [f"{part}[:{min(most, data.num_examples(other, part))}]" for part, most in _TRANSFER.items()]
            self.transfer = [load_patches(encoder, transfer, part, data_dir, statistics=own) for part in parts]

    def scores(self, encoder: PretrainedEncoder, pools: Iterable[str] = POOLS) -> list[dict[str, Any]]:
        """Pool, view, micro, macro and transfer of each readout of an encoder."""
        known, pools = self.patches.pairs, tuple(pools)
        unknown = [np.zeros_like(pair) for pair in known]
        others = [_embed(encoder, p.views[VIEWS[0]], p.pairs, pools) for p in self.transfer or ()]
        rows = []
        for view in VIEWS:
            images = self.patches.views.get(view, self.patches.views[VIEWS[0]])
            embedded = _embed(encoder, images, unknown if view == VIEWS[1] else known, pools)
            for pool, z in embedded.items():
                if view == VIEWS[1] and "metadata" in pool:
                    continue
                micro, macro = cross_validated(z, self.patches.labels)
                transfer = self._transferred([sets[pool] for sets in others]) if view == VIEWS[0] else np.nan
                rows.append(dict(pool=pool, view=view, micro=micro, macro=macro, transfer=transfer))
        return rows

    def baselines(self, seed: int) -> list[dict[str, Any]]:
        """The same for features without training: band statistics, random convolutional features, place and time."""
        filters = RandomConvFeatures(self.patches.views[VIEWS[0]], seed=seed)
        alone, *others = _BASELINES
        sets = {
            alone: lambda p: np.concatenate(p.pairs, axis=1),
            others[0]: lambda p: band_statistics(p.views[VIEWS[0]], p.valid),
            others[1]: lambda p: filters(p.views[VIEWS[0]]),
        }
        rows = []
        for name, make in sets.items():
            for told in (False, True):
                if told and name == alone:
                    continue

                def features(p: Patches, make: Any = make, told: bool = told) -> np.ndarray:
                    return np.concatenate([make(p), *(p.pairs if told else ())], axis=1)

                micro, macro = cross_validated(features(self.patches), self.patches.labels)
                pool = "+metadata" if told else ("metadata" if name == alone else "")
                view = VIEWS[0] if told or pool else VIEWS[1]
                transfer = self._transferred([features(p) for p in self.transfer or ()])
                rows.append(dict(recipe=name, pool=pool, view=view, micro=micro, macro=macro, transfer=transfer))
        return rows

    def _transferred(self, features: Sequence[np.ndarray]) -> float:
        """Micro mAP of a probe on the other dataset, of its training and its test features."""
        if self.transfer is None:
            return float("nan")
        train, test = self.transfer
        model = fit_logistic(features[0], train.labels, task="multilabel", C=0.1, standardise=True)[0]
        return float(average_precision_score(test.labels, model.probabilities(features[1]), average="micro"))


def read_scores(path: str) -> list[Score]:
    """The rows of a CSV of scores; none where there is no file."""
    if not os.path.exists(path):
        return []
    kinds = {field.name: {"str": str, "int": int, "float": float}[field.type] for field in dataclasses.fields(Score)}
    with open(path, newline="") as file:
        return [Score(**{key: kinds[key](value) for key, value in row.items()}) for row in csv.DictReader(file)]


def add_scores(path: str, scores: Sequence[Score]) -> None:
    """Adds rows to a CSV of scores, whole or not at all."""
    rows = read_scores(path) + list(scores)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(f"{path}.partial", "w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Score)])
        writer.writeheader()
        for row in rows:
            values = dataclasses.asdict(row)
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) and k != "minutes" else v for k, v in values.items()})
    os.replace(f"{path}.partial", path)


def compare(
    recipes: Mapping[str, ml_collections.ConfigDict],
    *,
    minutes: float,
    seeds: Sequence[int],
    output: str,
    name: str,
    split: str,
    data_dir: str,
    transfer: str = "",
    pools: Sequence[str] = POOLS,
) -> list[Score]:
    """Pretrains and scores each recipe with each seed, and the baselines.

    What `output`/scores.csv has is taken from there; a finished run in `output` is scored again where a readout is missing.

    Args:
        recipes: name -> configuration; data.data_dir is set to `data_dir`.
        minutes: of pretraining, compiling aside.
        output: folder of the runs and of scores.csv.
        name, split, transfer: as for `Bench`.

    Returns:
        The rows of the file that have one of these readouts, and those of the baselines that have none.
    """
    path = os.path.join(output, "scores.csv")
    bench: Bench | None = None

    def missing(recipe: str, seed: int, minutes: float) -> list[str]:
        done = {s.pool for s in read_scores(path) if (s.recipe, s.seed, s.minutes) == (recipe, seed, minutes)}
        return [pool for pool in pools if pool not in done]

    for seed in seeds:
        for recipe, config in recipes.items():
            lacking = missing(recipe, seed, minutes)
            if not lacking:
                continue
            with config.unlocked():
                config.data.data_dir = data_dir
            workdir = _run_folder(output, recipe, minutes, seed)
            facts = pretrain(config, minutes, seed, workdir)
            encoder = geomoe.load(workdir)
            if bench is None or bench.statistics != encoder.statistics:
                bench = Bench(encoder, name, split, data_dir, transfer)
            rows = [Score(recipe, seed, minutes, **facts, **row) for row in bench.scores(encoder, lacking)]
            nothing = dict(seconds=0.0, steps=0, images_per_second=float("nan"), least_used_expert=float("nan"))
            if lacking := missing("random weights", seed, 0.0):
                random = bench.scores(encoder.random_weights(seed), lacking)
                rows += [Score("random weights", seed, 0.0, **nothing, **row) for row in random]
            if not any((s.recipe, s.seed) == (_BASELINES[0], seed) for s in read_scores(path)):
                rows += [Score(seed=seed, minutes=0.0, **nothing, **row) for row in bench.baselines(seed)]
            add_scores(path, rows)
    return [score for score in read_scores(path) if score.pool in pools or score.recipe in _BASELINES]


def choose(
    recipes: Iterable[str],
    *,
    minutes: float,
    seed: int,
    output: str,
    name: str,
    split: str,
    data_dir: str,
    pools: Sequence[str] = POOLS,
) -> tuple[float, float, dict[str, int]]:
    """`nested_choice` among the recipes' runs of one length and seed in `output`, each with every readout ("recipe, pool")."""
    candidates: dict[str, np.ndarray] = {}
    for recipe in recipes:
        encoder = geomoe.load(_run_folder(output, recipe, minutes, seed))
        patches = load_patches(encoder, name, split, data_dir)
        for pool, z in _embed(encoder, patches.views[VIEWS[0]], patches.pairs, pools).items():
            candidates[f"{recipe}, {pool}"] = z
    return nested_choice(candidates, patches.labels)


def _run_folder(output: str, recipe: str, minutes: float, seed: int) -> str:
    return os.path.join(output, f"{recipe}-{minutes:g}min-{seed}")


def _spread(values: Sequence[float]) -> str:
    values = [value for value in values if not np.isnan(value)]
    if not values:
        return ""
    text = f"{statistics.mean(values):.3f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.3f}"


def markdown(scores: Sequence[Score]) -> str:
    """A table of all recipes, longest runs first: mean and deviation over the seeds."""
    groups: dict[tuple[float, str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.minutes, score.recipe, score.pool), []).append(score)
    head = ("recipe", "minutes", "seeds", "readout", "micro mAP", "macro mAP", "no place and time", "22 x 22", "transfer")
    head += ("images/s", "least used expert")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]

    def column(rows: Sequence[Score], view: str, key: str) -> str:
        return _spread([getattr(row, key) for row in rows if row.view == view])

    for minutes, recipe, pool in sorted(groups, key=lambda k: (-k[0], k[1], k[2])):
        rows = groups[minutes, recipe, pool]
        whole, bare, small = VIEWS
        first = [row for row in rows if row.view == whole] or rows
        cells = [recipe, f"{minutes:g}", str(len({row.seed for row in rows})), pool]
        cells += [_spread([row.micro for row in first]), _spread([row.macro for row in first])]
        cells += [column(rows, bare, "micro")]
        cells += [column(rows, small, "micro"), _spread([row.transfer for row in first])]
        cells += [_spread([row.images_per_second for row in first]).split(" ")[0].split(".")[0]]
        cells += [_spread([min(row.least_used_expert for row in first)]) if minutes else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def told_choice(found: tuple[float, float, Mapping[str, int]], minutes: float, seed: int) -> str:
    """What `choose` found, in words."""
    micro, macro, chosen = found
    often = "; ".join(f"{name}: {count}" for name, count in chosen.items())
    return (
        f"Chosen by nested folds among the runs of {minutes:g} minutes with seed {seed}: micro mAP {micro:.3f}, macro mAP "
        f"{macro:.3f}. How often each was chosen in {FOLDS * len(FOLD_SEEDS)} folds: {often}.\n"
    )


BEGIN, END = "<!-- recipes: begin -->", "<!-- recipes: end -->"


def write_markdown(path: str, text: str) -> None:
    """Puts a text between the two marks of a Markdown file, or in a new file."""
    table = f"{BEGIN}\n{text}{END}"
    text = f"# Recipes\n\n{table}\n"
    if os.path.exists(path):
        with open(path) as file:
            old = file.read()
        if BEGIN not in old or END not in old:
            raise ValueError(f"{path} has no line {BEGIN!r} and {END!r} to put the table between")
        text = old[: old.index(BEGIN)] + table + old[old.index(END) + len(END) :]
    with open(f"{path}.partial", "w") as file:
        file.write(text)
    os.replace(f"{path}.partial", path)

"""The sections of the report, one function each: what to show, as HTML."""

from __future__ import annotations

import dataclasses
import functools
import glob
import html
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geomoe.analysis.experts import ablation_effects, contribution_norms
from geomoe.analysis.projections import project
from geomoe.analysis.report import figures
from geomoe.analysis.sensitivity import TRUE, metadata_probe, metadata_sensitivity
from geomoe.data.composites import FALSE_COLOUR, TRUE_COLOUR, composite
from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import MAE, NUM_PREFIX_TOKENS
from geomoe.models.reconstruction import reconstruct
from geomoe.models.routing import Routing
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.config import PRETRAINED
from geomoe.probing.metrics import TASKS, main_metric
from geomoe.probing.tables import TITLES, Row, difference, read_tables, spread, table_cells
from geomoe.training.config import default_config, flatten
from geomoe.training.losses import OBJECTIVES
from geomoe.training.run_log import METRICS, read_table

SHOWN = 4  # images that are drawn
_ROUTED = 128  # images whose routing is measured
_PROBED = 3  # images for each number of an embedding, from which on it is said how much of their metadata embeddings hold
_AT_RANDOM = ("random", "stratified")  # folds that put patches beside each other on both sides

Table = tuple[list[Row], dict[str, Any]]  # rows and facts, of `read_tables`


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out images."""

    batch: dict[str, np.ndarray]  # image (N, S, S, C) z-scored; valid (N, S, S); week, hour, lat, lon (N, 2); labels (N, K)
    statistics: Statistics  # of the z-score
    task: str  # "multiclass", "multilabel" or another
    classes: Sequence[str]  # their names; empty without labels

    @classmethod
    def of(cls, batch: Mapping[str, np.ndarray], statistics: Statistics, task: str, classes: Sequence[str]) -> HeldOut:
        """Put the images to draw first: at even steps of the standard deviation of their pixels, the smoothest first."""
        by_std = np.argsort(batch["image"].std(axis=(1, 2)).mean(axis=-1), kind="stable")
        first = by_std[np.round(np.linspace(0.1, 0.95, SHOWN) * (len(by_std) - 1)).astype(int)]
        order = np.concatenate([first, np.setdiff1d(np.arange(len(by_std)), first)])
        return cls({name: value[order] for name, value in batch.items()}, statistics, task, classes)

    def first(self, count: int) -> dict[str, np.ndarray]:
        """The first images."""
        return {name: value[:count] for name, value in self.batch.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], main: str | None = None) -> str:
    """Lay out a table in HTML; rows whose first cell is `main` are stressed."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
        body += f"<tr{' class=main' if row[0] == main else ''}>{cells}</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def config(run: Mapping[str, Any], encoder: PretrainedEncoder) -> str:
    """The run's config against the published recipe, and the statistics of the z-score."""
    values, published = flatten(run["config"]), flatten(default_config().to_dict())
    changed = [(key, value, published.get(key)) for key, value in sorted(values.items()) if published.get(key) != value]
    whole = html.escape(json.dumps(run["config"], indent=1))
    statistics = encoder.statistics
    at = [statistics.values_at(z) for z in (-1, 0, 1)]
    bands = [(band, *(f"{value:.0f}" for value in of_band)) for band, *of_band in zip(encoder.bands, *at)]
    return (
        "<p>What differs from the published recipe:</p>"
        + table(("key", "this run", "published"), changed)
        + f"<details><summary>the whole config</summary><pre>{whole}</pre></details>"
        + f"<details><summary>normalisation: {html.escape(statistics['source'])}</summary>"
        + table(("band", "digital number of z-score -1", "0", "1"), bands)
        + "</details>"
    )


def curves(run_dir: str) -> str:
    """Training and held-out values of each objective, the optimiser, the speed, and the experts' shares, over the steps."""
    rows = read_table(os.path.join(run_dir, METRICS))
    if not rows:
        return '<p class="note">The run has no metrics.csv.</p>'
    titles = {"loss_masked": "reconstruction of hidden patches"} | {f"loss_{o.name}": o.title for o in OBJECTIVES}
    titles |= {"grad_norm": "gradient norm", "lr": "learning rate"}

    def points(column: str) -> figures.Points:
        return [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]

    drawn = []
    for name, title in titles.items():
        lines = {label: values for label, key in (("training", name), ("held out", f"val_{name}")) if (values := points(key))}
        drawn += [figures.curve(title, lines)] if lines else []
    out = f'<div class="grid">{"".join(drawn)}</div>'
    if speeds := points("images_per_second"):
        speed, wait = (np.median([value for _, value in p]) for p in (speeds, points("input_wait_share") or [(0, 0.0)]))
        out += f"<p>{speed:.0f} images/s (median); {100 * wait:.1f} % of the time waiting for input.</p>"
    shares: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for row in read_table(os.path.join(run_dir, "expert_usage.csv")):
        experts = shares.setdefault(row["block"], {})
        experts.setdefault(int(row["expert"]), []).append((int(row["step"]), float(row["share"])))
    if shares:
        out += "<p>Share of the held-out tokens of each expert, 1 = even, a panel for each block:</p>"
        out += f'<div class="wide">{figures.expert_shares(shares)}</div>'
    return out


def reconstructions(encoder: PretrainedEncoder, images: HeldOut) -> str:
    """Originals, what the encoder saw, reconstructions and their errors."""
    model = MAE(encoder.config)
    shown, normalised = images.first(SHOWN), encoder.normalised_targets
    result = reconstruct(model, encoder.params, shown, normalised_targets=normalised, valid=shown["valid"])
    drawn = ""
    for bands, title in ((TRUE_COLOUR, "true colour"), (FALSE_COLOUR, "near infrared, red, green")):
        drawn += f"<div><p>{title.capitalize()}:</p>{figures.reconstruction(result, images.statistics, bands, title)}</div>"
    note = ""
    if encoder.normalised_targets:
        note = "The run learned patches normalised each by itself; their own mean and standard deviation are given back to the "
        note += "reconstructions. "
    return (
        "<p>Held-out images, from smooth to textured: the original, the patches that the encoder saw, the reconstruction, and "
        f"its error (root mean square over the bands, in standard deviations of the data). {note}</p>"
        f'<div class="grid">{drawn}</div>'
    )


def routing(encoder: PretrainedEncoder, images: HeldOut) -> str:
    """Shares of the experts, their map on the patch grid, what they contribute, and what is lost without each."""
    cfg = encoder.config
    batch = images.first(_ROUTED)
    gates = encoder.apply_tokens(*(batch[name] for name in ("image", *FIELDS, "valid"))).gates
    routed = Routing([np.asarray(g) for g in gates], cfg)
    starved = [(i, e) for i, u in enumerate(routed.usage) for e, share in enumerate(u) if share < 0.25 / len(u)]
    note = f"{len(starved)} of {sum(map(len, routed.usage))} experts get less than a quarter of their even share of tokens"
    note += ": " + ", ".join(f"layer {i} expert {e}" for i, e in starved) + "." if starved else "."
    shown = images.first(SHOWN)
    last, side = cfg.depth - 1, cfg.img_size // cfg.patch_size
    norms = contribution_norms(encoder, shown, last)[-1, NUM_PREFIX_TOKENS:].reshape(side, side, -1)
    effects = ablation_effects(encoder, shown, last)[:, -1] if cfg.num_experts(last) > cfg.top_k else None
    maps = figures.first_choices(composite(shown["image"], images.statistics), routed, sorted({0, cfg.depth // 2, last}))
    return (
        f"<p>Experts on held-out images, without masking and noise. {html.escape(note)}</p>"
        f'<div class="wide">{figures.usage(routed)}</div>'
        f"<p>The expert with the largest gate, patch by patch:</p>{maps}"
        "<p>The last layer and the last image above: how much each expert adds to a patch, and how far the patch's embedding "
        f"moves when that expert can no longer be chosen:</p>{figures.expert_effects(norms, effects)}"
    )


def sensitivity(encoder: PretrainedEncoder, images: HeldOut) -> str:
    """How far embeddings move and what probes lose when the metadata is removed, shuffled or shifted."""
    labelled = images.task in TASKS
    labels, task = (images.batch["labels"], images.task) if labelled else (None, None)
    batch = images.batch
    measure = functools.partial(metadata_sensitivity, encoder, batch["image"], batch, valid=batch["valid"], batch_size=128)
    note = ""
    try:
        rows = measure(labels, task)
    except ValueError as error:  # of a probe: its halves may hold too few classes
        rows, labelled = measure(), False
        note = f'<p class="note">Without probes, of halves of these images: {html.escape(str(error))}</p>'
    header = ["metadata given to the encoder", "cosine with the true embedding"]
    if labelled:
        metric = TITLES[main_metric(images.task)]
        header += [f"{metric}, probe of true metadata", f"{metric}, probe fitted again"]
    values = [(row.cosine, row.score, row.refitted) for row in rows]
    cells = [[row.change, *(f"{v:.3f}" for v in line if v is not None)] for row, line in zip(rows, values)]
    probed = ""
    if len(batch["image"]) >= _PROBED * encoder.embed_dim:
        found = metadata_probe(encoder, batch["image"], valid=batch["valid"], batch_size=128)
        probed = (
            "<p>Metadata drawn at random are given to the images, and ridge regression reads them from the embeddings: "
            f"{found}. An R2 of 1 is all of it, and of so few images it is too low by 0.1 or so; the variance is the share of "
            "the embeddings' that metadata make.</p>"
        )
    return (
        "<p>The model may use where and when an image was taken as a prior, in place of its pixels. Here location and time are "
        f"removed, shuffled among the images, or shifted.</p>{note}{table(header, cells, TRUE)}{probed}"
    )


def probes(run_dir: str) -> str:
    """The tables of `probe.py` for this run, and their main metrics with intervals."""
    files = sorted(glob.glob(os.path.join(run_dir, "probes", "*.json")))
    if not files:
        return '<p class="note">No probes yet: run probe.py on this run, then write the report again.</p>'
    out, tables = [], list[Table]()
    for path in files:
        try:
            rows, facts = read_tables(path)
        except ValueError as error:
            out.append(f'<p class="note">{html.escape(str(error))}</p>')
            continue
        folds = f"cross-validated, {facts['splits']}" if facts.get("splits") else "cross-validated"
        test = f"{facts['test']:,} test images" if facts["test"] is not None else folds
        tables.append((rows, facts))
        out.append(
            f"<h3>{html.escape(facts['dataset'])}</h3><p>{html.escape(facts['task'])}, {facts['train']:,} training images, "
            f"{html.escape(test)}, protocol {html.escape(facts['protocol'])}; mean and standard deviation over "
            f"{len(facts['config']['seeds'])} seeds.</p>"
        )
        out.append(table(*table_cells(rows), PRETRAINED))
        for metric in dict.fromkeys(row.main for row in rows):
            bars = []
            for row in (row for row in rows if row.main == metric):
                value = row.mean[metric]
                span = row.intervals.get(metric, (value, value))
                bars.append((f"{row.features}, {row.probe}", value, span, row.features == PRETRAINED))
            out.append(figures.intervals(TITLES[metric], bars))
    return "".join(out) + "".join(_splits_compared(*pair) for pair in _pairs_of_splits(tables))


def _pairs_of_splits(tables: Sequence[Table]) -> list[tuple[Table, Table]]:
    """The tables of one dataset, encoder and pool whose folds were drawn at random, with those by blocks or groups."""
    kinds: dict[str, list[Table]] = {"near": [], "far": []}
    for table in tables:
        facts = table[1]
        if facts.get("splits"):
            kinds["near" if facts["config"]["data"]["splits"] in _AT_RANDOM else "far"].append(table)

    def same(a: Table, b: Table) -> bool:
        (x, y), of_data = (a[1], b[1]), ("train_split", "nodata", "drop", "resize_mode", "clip", "hour")
        of_probes = ("pool", "linear", "knn")
        facts = all(x[key] == y[key] for key in ("dataset", "task", "protocol", "encoder"))
        x, y = x["config"], y["config"]
        return facts and all(x[key] == y[key] for key in of_probes) and all(x["data"][key] == y["data"][key] for key in of_data)

    return [(near, far) for near in kinds["near"] for far in kinds["far"] if same(near, far)]


def _splits_compared(near: Table, far: Table) -> str:
    """Scores with folds at random beside those with folds that keep neighbours or groups together."""
    (rows, facts), (others, other_facts) = near, far
    found = {(row.features, row.probe): row for row in others}
    cells, warned = [], []
    for row in rows:
        if (other := found.get((row.features, row.probe))) is None:
            continue
        loss, spread_of_both = difference(row, other)
        differs = abs(loss) > spread_of_both
        values = [spread([run[row.main] for run in each.runs]) for each in (row, other)]
        cells.append([row.features, row.probe, TITLES[row.main], *values, f"{-loss:+.3f}", "yes" if differs else "no"])
        if differs and row.features == PRETRAINED:
            warned.append(f"{row.probe} {-loss:+.3f} (spread {spread_of_both:.3f})")
    names = facts["splits"], other_facts["splits"]
    note = ""
    if warned:
        text = (
            f"Warning: scores with {names[1]} differ from those with {names[0]} by more than the spread of the seeds: "
            f"{'; '.join(warned)}. Folds at random have patches beside each other on both sides; quote the other score for "
            "places where the probe was not fitted."
        )
        note = f'<p class="note">{html.escape(text)}</p>'
    header = ["features", "probe", "metric", *names, "difference", "beyond the spread"]
    return f"<h3>{html.escape(facts['dataset'])}: how the folds were drawn</h3>{note}" + table(header, cells, PRETRAINED)


def projection(encoder: PretrainedEncoder, images: HeldOut) -> str:
    """Embeddings in two dimensions, coloured by class."""
    batch = images.batch
    z = embed_in_batches(encoder, batch["image"], [batch[name] for name in FIELDS], batch_size=128, valid=batch["valid"])
    labels = images.batch["labels"]
    several = images.task == "multilabel"
    single = labels.sum(axis=1) == 1 if several else np.ones(len(labels), bool)
    groups, key = [], ""
    for k, name in enumerate(images.classes if labels.ndim == 2 else ()):
        rows, colour = single & (labels[:, k] > 0), figures.COLOURS[k % len(figures.COLOURS)]
        if rows.any():
            groups.append((rows, colour))
            key += f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>'
    drawn = "".join(figures.scatter(title, project(z, how), groups) for title, how in (("PCA", "pca"), ("t-SNE", "tsne")))
    note = " Images of several classes are grey." if several else ""
    return (
        f"<p>Embeddings of {len(z)} held-out images in two dimensions.{note}</p>"
        f'<div class="grid">{drawn}</div><p class="key">{key}</p>'
    )

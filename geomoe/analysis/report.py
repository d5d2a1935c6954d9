"""A run on one page: a self-contained HTML file with config, curves, reconstructions, routing, reliance, probes, projection."""

from __future__ import annotations

import base64
import csv
import datetime
import glob
import html
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import geomoe
from geomoe.analysis.experts import ablation_effects, contribution_norms
from geomoe.analysis.projections import project
from geomoe.analysis.sensitivity import metadata_sensitivity
from geomoe.data.composites import FALSE_COLOUR, TRUE_COLOUR, composite
from geomoe.metadata import FIELDS
from geomoe.models.reconstruction import reconstruct
from geomoe.models.routing import Routing
from geomoe.pretrained import PretrainedEncoder, embed_in_batches
from geomoe.probing.features import load_images
from geomoe.probing.metrics import main_metric
from geomoe.probing.tables import COLUMNS
from geomoe.training.checkpoints import read_run
from geomoe.training.config import flatten

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2327; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 60rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 0.4rem; border-bottom: 1px solid #d5dade; padding-bottom: 0.2rem; }
p, li { max-width: 42rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.1rem 0.8rem; }
a { color: #0b5cad; }
img { max-width: 100%; height: auto; display: block; margin: 0.6rem 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 0.4rem; }
.wide { overflow-x: auto; }
.wide img { max-width: none; }
pre { overflow-x: auto; font-size: 0.8rem; }
.key span { display: inline-block; margin-right: 0.9rem; font-size: 0.85rem; }
.key i { display: inline-block; width: 0.7rem; height: 0.7rem; border-radius: 50%; margin-right: 0.3rem;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; margin: 0.6rem 0; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #e3e7ea; text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; overflow-wrap: normal; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.mine td { font-weight: 600; }
.note { color: #59636b; }
summary { cursor: pointer; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } nav { display: none; } .wide { overflow: visible; }
  .wide img { max-width: 100%; } img, tr { break-inside: avoid; } h2 { break-after: avoid; } table { font-size: 8pt; } }
"""
_COLOURS = [matplotlib.colors.to_hex(colour) for colour in plt.get_cmap("tab20").colors]
_IMAGES = 512  # held-out images that are looked at
_SHOWN = 4  # of them in pictures


def _image(figure: plt.Figure, alt: str, vector: bool = True) -> str:
    """A figure as an <img> that holds its data."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="svg" if vector else "png", dpi=160, bbox_inches="tight", metadata={"Date": None} if vector else None
    )
    plt.close(figure)
    kind = "svg+xml" if vector else "png"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{data}">'


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], mine: Callable[[Sequence[str]], bool] = lambda row: False
) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{' class=mine' if mine(row) else ''}>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _read_csv(path: str) -> list[dict[str, str]]:
    if not os.path.exists(path):
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _config_section(run: Mapping[str, Any], encoder: PretrainedEncoder) -> str:
    from geomoe.training import default_config

    config, default = flatten(run["config"]), flatten(default_config().to_dict())
    changed = [(k, v, default.get(k)) for k, v in sorted(config.items()) if default.get(k) != v]
    rows = [(k, str(v), str(d)) for k, v, d in changed]
    whole = html.escape(json.dumps(run["config"], indent=1))
    statistics = encoder.statistics
    bands = [(b, f"{m:.0f}", f"{s:.0f}") for b, m, s in zip(encoder.bands, statistics["mean"], statistics["std"])]
    return (
        "<p>What differs from the published recipe:</p>"
        + _table(("key", "this run", "published"), rows)
        + f"<details><summary>the whole config</summary><pre>{whole}</pre></details>"
        + f"<details><summary>normalisation: {html.escape(statistics['source'])}</summary>"
        + _table(("band", "mean, digital numbers", "deviation"), bands)
        + "</details>"
    )


def _curves_section(run_dir: str) -> str:
    rows = _read_csv(os.path.join(run_dir, "metrics.csv"))
    if not rows:
        return '<p class="note">The run has no metrics.csv.</p>'
    names = [
        ("loss_masked", "hidden patches"),
        ("loss_info_nce", "contrast"),
        ("loss_vicreg", "variance and covariance"),
        ("loss_data2vec", "latent prediction"),
        ("loss_spectral_indices", "spectral indices"),
        ("loss_metadata", "place and time from pixels"),
        ("grad_norm", "gradient norm"),
        ("lr", "learning rate"),
    ]
    drawn = [(k, t) for k, t in names if any(r.get(k) for r in rows)]
    out = []
    for name, title in drawn:
        figure, ax = plt.subplots(figsize=(4.2, 2.6))
        for key, label in ((name, "training"), (f"val_{name}", "held out")):
            points = [(int(r["step"]), float(r[key])) for r in rows if r.get(key)]
            if points:
                ax.plot(*zip(*points), label=label, marker="o" if len(points) < 12 else None, markersize=3)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("step", fontsize=10)
        ax.tick_params(labelsize=9)
        ax.grid(alpha=0.3)
        if len(ax.lines) > 1:
            ax.legend(fontsize=9)
        out.append(_image(figure, f"{title} over the steps"))
    speeds = [float(r["images_per_second"]) for r in rows if r.get("images_per_second")]
    waits = [float(r["input_wait_share"]) for r in rows if r.get("input_wait_share")]
    speed = f"<p>{np.median(speeds):.0f} images/s (median); {100 * np.median(waits):.1f} % of the time waiting for input.</p>"
    return f'<div class="grid">{"".join(out)}</div>' + (speed if speeds else "")


def _reconstruction_section(encoder: PretrainedEncoder, batch: Mapping[str, np.ndarray]) -> str:
    from geomoe.models import MAE

    shown = {k: v[:_SHOWN] for k, v in batch.items()}
    result = reconstruct(MAE(encoder.config), encoder.params, shown, normalised_targets=encoder.normalised_targets)
    out = []
    for bands, title in ((TRUE_COLOUR, "true colour"), (FALSE_COLOUR, "near infrared, red, green")):
        figure, axes = plt.subplots(_SHOWN, 4, figsize=(4.4, 1.12 * _SHOWN), squeeze=False)
        original = composite(result.original, encoder.statistics, bands)
        masked = np.where(result.mask[..., None] > 0, 0.5, original)
        painted = composite(result.reconstruction, encoder.statistics, bands)
        top = float(np.quantile(result.error, 0.98))
        for i in range(min(_SHOWN, len(original))):
            for ax, picture in zip(axes[i], (original[i], masked[i], painted[i], result.error[i])):
                ax.imshow(picture, cmap="magma", vmin=0, vmax=top)
                ax.set_axis_off()
        for ax, name in zip(axes[0], ("original", "seen", "reconstruction", f"error, 0 to {top:.2f}")):
            ax.set_title(name, fontsize=8)
        figure.tight_layout(pad=0.4)
        out.append(
            f"<div><p>{title.capitalize()}:</p>" + _image(figure, f"reconstructions in {title}", vector=False) + "</div>"
        )
    note = ""
    if encoder.normalised_targets:
        note = (
            "The run learned patches normalised each by itself; their own mean and deviation are given back to the paintings. "
        )
    return (
        "<p>Held-out images, from plain to varied: the original, the patches that the encoder saw, the reconstruction, and its "
        f"absolute error (mean over the bands, in standard deviations of the data). {note}</p>"
        f'<div class="grid">{"".join(out)}</div>'
    )


def _plain_to_varied(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with images at even steps of their pixels' deviation first, the plainest before the most varied."""
    spread = np.argsort(batch["image"].std(axis=(1, 2)).mean(axis=-1), kind="stable")
    first = spread[np.round(np.linspace(0.1, 0.95, _SHOWN) * (len(spread) - 1)).astype(int)]
    order = np.concatenate([first, np.setdiff1d(np.arange(len(spread)), first)])
    return {name: value[order] for name, value in batch.items()}


def _routing_section(encoder: PretrainedEncoder, batch: Mapping[str, np.ndarray]) -> str:
    cfg = encoder.config
    gates = [np.asarray(g) for g in encoder.apply_tokens(batch["image"], *(batch[name] for name in FIELDS)).gates]
    routing = Routing(gates, cfg)
    experts = max(len(u) for u in routing.usage)
    grid = np.full((experts, cfg.depth), np.nan)
    for layer, usage in enumerate(routing.usage):
        grid[: len(usage), layer] = usage * len(usage)
    figure, ax = plt.subplots(figsize=(min(9, 2 + 0.5 * cfg.depth), 2.4))
    shades = ax.imshow(grid, cmap="viridis", vmin=0, vmax=2, aspect="auto")
    ax.set_xlabel("layer", fontsize=8)
    ax.set_ylabel("expert", fontsize=8)
    ax.set_xticks(range(cfg.depth))
    ax.set_yticks(range(experts))
    for (e, layer), value in np.ndenumerate(grid):
        if np.isfinite(value):
            ax.text(layer, e, f"{value:.2f}", ha="center", va="center", fontsize=6, color="white" if value < 1.2 else "black")
    figure.colorbar(shades)
    ax.set_title("share of the tokens, 1 = even", fontsize=9)
    usage_map = '<div class="wide">' + _image(figure, "share of the tokens of each expert in each layer") + "</div>"
    starved = [(i, e) for i, u in enumerate(routing.usage) for e, s in enumerate(u) if s < 0.25 / len(u)]
    note = f"{len(starved)} of {sum(map(len, routing.usage))} experts get less than a quarter of their even share of tokens"
    note += ": " + ", ".join(f"layer {i} expert {e}" for i, e in starved) + "." if starved else "."

    layers = sorted({0, cfg.depth // 2, cfg.depth - 1})
    shown = {k: v[:_SHOWN] for k, v in batch.items()}
    figure, axes = plt.subplots(_SHOWN, 1 + len(layers), figsize=(1.1 * (1 + len(layers)), 1.12 * _SHOWN), squeeze=False)
    pictures = composite(shown["image"], encoder.statistics)
    for i in range(_SHOWN):
        axes[i, 0].imshow(pictures[i])
        for ax, layer in zip(axes[i, 1:], layers):
            ax.imshow(routing.top1(layer)[i], cmap="tab10", vmin=0, vmax=9)
    for ax, title in zip(axes[0], ("image", *(f"layer {layer}" for layer in layers))):
        ax.set_title(title, fontsize=8)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.tight_layout(pad=0.4)
    maps = _image(figure, "the expert with the largest gate for each patch", vector=False)

    last = cfg.depth - 1
    norms = contribution_norms(encoder, shown, last)
    side = cfg.img_size // cfg.patch_size
    effects = ablation_effects(encoder, shown, last) if cfg.num_experts(last) > cfg.top_k else None
    count = cfg.num_experts(last)
    figure, axes = plt.subplots(2 if effects is not None else 1, count, figsize=(1.4 * count, 3), squeeze=False)
    for e in range(count):
        axes[0, e].imshow(norms[-1, -side * side :, e].reshape(side, side), cmap="viridis", vmin=0, vmax=norms[-1].max())
        axes[0, e].set_title(f"expert {e}", fontsize=8)
        if effects is not None:
            axes[1, e].imshow(effects[e, -1], cmap="magma", vmin=0, vmax=max(float(effects[:, -1].max()), 1e-9))
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0, 0].set_ylabel("contribution", fontsize=8)
    axes[-1, 0].set_ylabel("effect of ablation" if effects is not None else "contribution", fontsize=8)
    figure.tight_layout(pad=0.4)
    detail = _image(figure, "norm of each expert's contribution, and effect of leaving it out", vector=False)
    return (
        f"<p>Experts on held-out images, without masking and noise. {html.escape(note)}</p>{usage_map}"
        f"<p>The expert with the largest gate, patch by patch:</p>{maps}"
        "<p>The last layer and the last image above: how much each expert adds to a patch, and how far the patch's embedding "
        f"moves when that expert can no longer be chosen:</p>{detail}"
    )


def _sensitivity_section(encoder: PretrainedEncoder, batch: Mapping[str, np.ndarray], task: str) -> str:
    labelled = task in ("multiclass", "multilabel")
    rows = metadata_sensitivity(
        encoder, batch["image"], batch, batch["labels"] if labelled else None, task if labelled else None, batch_size=128
    )
    show = lambda value: "" if value is None else f"{value:.3f}"
    metric = COLUMNS[main_metric(task)] if labelled else ""
    header = ["told to the encoder", "cosine with the true embedding"]
    header += [f"{metric}, probe of true metadata", f"{metric}, probe fitted again"] if labelled else []
    cells = [[r.change, show(r.cosine), show(r.score), show(r.refitted)][: len(header)] for r in rows]
    return (
        "<p>The model may lean on where and when an image was taken in place of looking at it. Here place and time are "
        "removed, shuffled among the images, or shifted.</p>" + _table(header, cells, lambda row: row[0] == "as they are")
    )


def _probes_section(run_dir: str) -> str:
    files = sorted(glob.glob(os.path.join(run_dir, "probes", "*.json")))
    if not files:
        return '<p class="note">No probes yet: run probe.py on this run, then make the report again.</p>'
    out = []
    for path in files:
        with open(path) as file:
            found = json.load(file)
        rows = found["rows"]
        shown = [key for key in COLUMNS if any(key in row["mean"] for row in rows)]
        cells = [
            [r["features"], r["probe"]] + [f"{r['mean'][k]:.3f} ± {r['std'][k]:.3f}" if k in r["mean"] else "" for k in shown]
            for r in rows
        ]
        size = f"{found['train']:,} training" + (
            f", {found['test']:,} test" if found["test"] is not None else ", cross-validated"
        )
        out.append(
            f"<h3>{html.escape(found['dataset'])}</h3><p>{html.escape(found['task'])}, {size} images, protocol "
            f"{html.escape(found['protocol'])}; mean and deviation over {len(found['config']['seeds'])} seeds.</p>"
            + _table(("features", "probe", *(COLUMNS[k] for k in shown)), cells, lambda row: row[0] == "pretrained")
        )
        key = next((k for k in ("micro_mAP", "accuracy", "r2") if k in shown), shown[0])
        with_key = [r for r in rows if key in r["mean"]]
        figure, ax = plt.subplots(figsize=(5, 0.6 + 0.3 * len(with_key)))
        for y, r in enumerate(reversed(with_key)):
            low, high = r["intervals"].get(key, (r["mean"][key],) * 2)
            colour = "tab:blue" if r["features"] == "pretrained" else "tab:gray"
            ax.plot([low, high], [y, y], color=colour, lw=1.5)
            ax.plot(r["mean"][key], y, "o", color=colour, markersize=5)
        ax.set_yticks(range(len(with_key)), [f"{r['features']}, {r['probe']}" for r in reversed(with_key)], fontsize=9)
        ax.tick_params(axis="x", labelsize=9)
        ax.set_xlabel(f"{COLUMNS[key]}, 95 % interval of the first seed", fontsize=9)
        ax.grid(axis="x", alpha=0.3)
        out.append(_image(figure, f"{COLUMNS[key]} of each set of features"))
    return "".join(out)


def _projection_section(encoder: PretrainedEncoder, batch: Mapping[str, np.ndarray], classes: Sequence[str], task: str) -> str:
    z = embed_in_batches(encoder, batch["image"], [batch[name] for name in FIELDS], batch_size=128)
    flat = {"PCA": project(z, "pca"), "t-SNE": project(z, "tsne")}
    labels = batch["labels"]
    single = labels.sum(axis=1) == 1 if task == "multilabel" else np.ones(len(labels), bool)
    of_class = {name: single & (labels[:, k] > 0) for k, name in enumerate(classes)} if labels.ndim == 2 else {}
    drawn = [(name, rows, _COLOURS[k % len(_COLOURS)]) for k, (name, rows) in enumerate(of_class.items()) if rows.any()]
    out = []
    for title, xy in flat.items():
        figure, ax = plt.subplots(figsize=(4.2, 4.2))
        ax.scatter(*xy[~single if drawn else slice(None)].T, s=6, color="#d0d0d0", linewidths=0)
        for _, rows, colour in drawn:
            ax.scatter(*xy[rows].T, s=9, color=colour, linewidths=0)
        ax.set_title(title, fontsize=11)
        ax.set_xticks([])
        ax.set_yticks([])
        out.append(_image(figure, f"{title} of the embeddings"))
    key = "".join(f'<span><i style="background:{c}"></i>{html.escape(name)}</span>' for name, _, c in drawn)
    grey = " Images of several classes are grey." if task == "multilabel" else ""
    return (
        f"<p>Embeddings of {len(z)} held-out images in two dimensions.{grey}</p>"
        f'<div class="grid">{"".join(out)}</div><p class="key">{key}</p>'
    )


def write_report(
    run_dir: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    checkpoint: str | int = "last",
    data_dir: str | os.PathLike | None = None,
    split: str | None = None,
    max_images: int = _IMAGES,
) -> str:
    """Writes the report of a run.

    Args:
        run_dir: of `train.py`.
        output: the HTML file; None is `report.html` in the run directory.
        checkpoint: "last", "best" or a step.
        data_dir, split: where and what the held-out images are; None takes those of the run's config. Where the dataset is
            absent the report says so and goes without pictures.
        max_images: held-out images to look at.

    Returns:
        The path of the file.
    """
    from geomoe import data

    run_dir = os.fspath(run_dir)
    run = read_run(run_dir)
    encoder = geomoe.load(run_dir, checkpoint)
    config = run["config"]["data"]
    sections = [
        ("config", "Config", lambda: _config_section(run, encoder)),
        ("curves", "Curves", lambda: _curves_section(run_dir)),
    ]
    missing = ""
    try:
        source = data.builder(config["name"], data_dir or config["data_dir"])
        resize_mode = "resize" if config["resize_mode"] == "resize" else "centre_crop"
        options = dict(resize_mode=resize_mode, clip=tuple(config["clip"]) or None, hour=config["hour"], batch_size=128)
        batch = load_images(encoder, source, split or config["val_split"], limit=max_images, **options)
        batch = _plain_to_varied(batch)
        task, classes = source.info.metadata["task"], source.info.features["labels"].feature.names or []
    except (FileNotFoundError, ValueError) as error:
        missing = f'<p class="note">Without pictures: {html.escape(str(error))}</p>'
    if not missing:
        sections += [
            ("reconstructions", "Reconstructions", lambda: _reconstruction_section(encoder, batch)),
            ("routing", "Routing", lambda: _routing_section(encoder, {k: v[:128] for k, v in batch.items()})),
            ("metadata", "Place and time", lambda: _sensitivity_section(encoder, batch, task)),
        ]
    sections.append(("probes", "Probes", lambda: _probes_section(run_dir)))
    if not missing:
        sections.append(("projection", "Projection", lambda: _projection_section(encoder, batch, classes, task)))
    title = f"geomoe run {os.path.basename(os.path.abspath(run_dir))}"
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in sections)
    cfg = encoder.config
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = (
        f"<p>{html.escape(encoder.source)}; {encoder.num_params:,} encoder parameters, {cfg.depth} layers of width "
        f"{cfg.width}; images of {cfg.img_size} x {cfg.img_size} pixels; trained on {html.escape(str(run['dataset']))}. "
        f"Made {made} by geomoe {geomoe.__version__}.</p>{missing}"
    )
    body = "".join(f'<section id="{key}"><h2>{name}</h2>{make()}</section>' for key, name, make in sections)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{html.escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{head}<nav>{links}</nav>{body}</body></html>\n"
    )
    path = os.fspath(output) if output is not None else os.path.join(run_dir, "report.html")
    with open(f"{path}.partial", "w") as file:
        file.write(page)
    os.replace(f"{path}.partial", path)
    return path

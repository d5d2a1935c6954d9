"""Figures of the report: matplotlib, drawn without a display, as <img> elements that hold their data."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from geomoe.data.composites import Colours, composite
from geomoe.models.reconstruction import Reconstruction
from geomoe.models.routing import Routing

COLOURS = [matplotlib.colors.to_hex(matplotlib.colormaps["tab20"](i)) for i in range(20)]
Points = Sequence[tuple[float, float]]


def image(figure: Figure, alt: str, vector: bool = True) -> str:
    """Turn a figure into an <img> that holds its data, and close it."""
    buffer = io.BytesIO()
    kind = "svg" if vector else "png"
    figure.savefig(buffer, format=kind, dpi=160, bbox_inches="tight", metadata={"Date": None} if vector else None)
    plt.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{"svg+xml" if vector else "png"};base64,{data}">'


def _panels(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], alt: str, **options: Any) -> str:
    """Draw images in a grid: a title for each column; `options` as for `imshow`."""
    size = (1.1 * len(titles), 1.12 * len(rows))
    figure, axes = plt.subplots(len(rows), len(titles), figsize=size, squeeze=False)
    for panels, line in zip(rows, axes):
        for ax, panel in zip(line, panels):
            ax.imshow(panel, **options)
            ax.set_axis_off()
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, fontsize=8)
    figure.tight_layout(pad=0.4)
    return image(figure, alt, vector=False)


def curve(title: str, lines: Mapping[str, Points]) -> str:
    """Draw lines over the steps: label -> (step, value) points."""
    figure, ax = plt.subplots(figsize=(4.2, 2.6))
    for label, points in lines.items():
        ax.plot(*zip(*points), label=label, marker="o" if len(points) < 12 else None, markersize=3)
    ax.set_title(title, fontsize=11)
    ax.set_xlabel("step", fontsize=10)
    ax.tick_params(labelsize=9)
    ax.grid(alpha=0.3)
    if len(lines) > 1:
        ax.legend(fontsize=9)
    return image(figure, f"{title} over the steps")


def expert_shares(shares: Mapping[str, Mapping[int, Points]]) -> str:
    """Draw the share of each expert over the steps, a panel for each block: block -> expert -> (step, share) points.

    Shares are over an even share: 1 is even.
    """
    columns = min(len(shares), 5)
    rows = -(-len(shares) // columns)
    size = (1.9 * columns, 1.5 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for ax in axes.flat[len(shares) :]:
        ax.set_axis_off()
    for ax, (block, experts) in zip(axes.flat, shares.items()):
        for points in experts.values():
            ax.plot(*zip(*((step, share * len(experts)) for step, share in points)), lw=1, marker=".", markersize=3)
        ax.set_title(block, fontsize=7)
        ax.set_ylim(bottom=0)
        ax.tick_params(labelsize=6)
        ax.grid(alpha=0.3)
    figure.tight_layout(pad=0.4)
    return image(figure, "share of each expert over the steps, a panel for each block")


def reconstruction(result: Reconstruction, statistics: Mapping[str, Any], colours: Colours, title: str) -> str:
    """Draw the original, what the encoder saw, the reconstruction and its error, a row for each image."""
    original, decoded = (composite(z, statistics, colours) for z in (result.original, result.reconstruction))
    seen = np.where(result.mask[..., None] > 0, 0.5, original)
    top = float(np.quantile(result.error, 0.98))
    titles = ("original", "seen", "reconstruction", f"error, 0 to {top:.2f}")
    rows = list(zip(original, seen, decoded, result.error))
    return _panels(rows, titles, f"reconstructions in {title}", cmap="magma", vmin=0, vmax=top)


def usage(routing: Routing) -> str:
    """Draw the share of the tokens of each expert in each layer, over an even share."""
    depth, experts = len(routing.usage), max(map(len, routing.usage))
    grid = np.full((experts, depth), np.nan)
    for layer, shares in enumerate(routing.usage):
        grid[: len(shares), layer] = shares * len(shares)
    figure, ax = plt.subplots(figsize=(min(9, 2 + 0.5 * depth), 2.4))
    shades = ax.imshow(grid, cmap="viridis", vmin=0, vmax=2, aspect="auto")
    ax.set_xlabel("layer", fontsize=8)
    ax.set_ylabel("expert", fontsize=8)
    ax.set(xticks=range(depth), yticks=range(experts))
    for (e, layer), value in np.ndenumerate(grid):
        if np.isfinite(value):
            ax.text(layer, e, f"{value:.2f}", ha="center", va="center", fontsize=6, color="white" if value < 1.2 else "black")
    figure.colorbar(shades)
    ax.set_title("share of the tokens, 1 = even", fontsize=9)
    return image(figure, "share of the tokens of each expert in each layer")


def first_choices(rgb: np.ndarray, routing: Routing, layers: Sequence[int]) -> str:
    """Draw images (N, S, S, 3) beside the expert with the largest gate of each patch in some layers, none without data."""
    rows = [[pixels, *(np.ma.masked_less(routing.top1(layer)[i], 0) for layer in layers)] for i, pixels in enumerate(rgb)]
    titles = ["image", *(f"layer {layer}" for layer in layers)]
    return _panels(rows, titles, "the expert with the largest gate for each patch", cmap="tab10", vmin=0, vmax=9)


def expert_effects(norms: np.ndarray, effects: np.ndarray | None) -> str:
    """Draw what each expert adds to the patches of one image, (side, side, E), and its ablation's effect, (E, side, side)."""
    shown = [("contribution", np.moveaxis(norms, -1, 0), dict(cmap="viridis", vmin=0, vmax=norms.max()))]
    if effects is not None:
        shown.append(("effect of ablation", effects, dict(cmap="magma", vmin=0, vmax=max(float(effects.max()), 1e-9))))
    count = norms.shape[-1]
    figure, axes = plt.subplots(len(shown), count, figsize=(1.4 * count, 3), squeeze=False)
    for line, (label, panels, options) in zip(axes, shown):
        for ax, panel in zip(line, panels):
            ax.imshow(panel, **options)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(label, fontsize=8)
    for e, ax in enumerate(axes[0]):
        ax.set_title(f"expert {e}", fontsize=8)
    figure.tight_layout(pad=0.4)
    return image(figure, "norm of each expert's contribution, and effect of leaving it out", vector=False)


def intervals(title: str, bars: Sequence[tuple[str, float, tuple[float, float], bool]]) -> str:
    """Draw values with their 95 % intervals: label, value, (low, high), whether to stress it; the first on top."""
    figure, ax = plt.subplots(figsize=(5, 0.6 + 0.3 * len(bars)))
    for y, (_, value, span, stressed) in enumerate(reversed(bars)):
        colour = "tab:blue" if stressed else "tab:gray"
        ax.plot(span, [y, y], color=colour, lw=1.5)
        ax.plot(value, y, "o", color=colour, markersize=5)
    ax.set_yticks(range(len(bars)), [label for label, *_ in reversed(bars)], fontsize=9)
    ax.tick_params(axis="x", labelsize=9)
    ax.set_xlabel(f"{title}, 95 % interval of the first seed", fontsize=9)
    ax.grid(axis="x", alpha=0.3)
    return image(figure, f"{title} of each set of features")


def scatter(title: str, xy: np.ndarray, groups: Sequence[tuple[np.ndarray, str]]) -> str:
    """Draw points (N, 2): the rows of each group, (N,) bool, in its colour, the rest in grey."""
    figure, ax = plt.subplots(figsize=(4.2, 4.2))
    rest = ~np.any([rows for rows, _ in groups], axis=0) if groups else np.ones(len(xy), bool)
    for rows, colour, area in [(rest, "#d0d0d0", 6), *((rows, colour, 9) for rows, colour in groups)]:
        ax.scatter(xy[rows, 0], xy[rows, 1], s=area, color=colour, linewidths=0)
    ax.set_title(title, fontsize=11)
    ax.set(xticks=[], yticks=[])
    return image(figure, f"{title} of the embeddings")

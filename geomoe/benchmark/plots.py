"""The figures of a benchmark as PNG."""

import os
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def _curve(rows: Sequence[dict[str, Any]], part: str, axis: str, path: str) -> str | None:
    chosen = sorted((r for r in rows if r["part"] == part and r.get("varied") == axis), key=lambda r: r[axis])
    if len(chosen) < 2:
        return None
    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    ax.plot([r[axis] for r in chosen], [r["per_s"] for r in chosen], marker="o")
    ax.set(xlabel=axis.replace("_", " "), ylabel="images/s", title=f"{part}, size {chosen[0]['size']}", ylim=(0, None))
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def save_plots(rows: Sequence[dict[str, Any]], folder: str | os.PathLike) -> list[str]:
    """Writes a PNG for each quantity that was varied, and one for the experts; the paths of those that there are."""
    os.makedirs(folder, exist_ok=True)
    kinds = sorted({(r["part"], r["varied"]) for r in rows if r.get("varied")})
    paths = [_curve(rows, part, axis, os.path.join(folder, f"{part}_{axis}.png")) for part, axis in kinds]
    mixtures = [r for r in rows if r["part"] == "experts"]
    if mixtures:
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
        for ax, column in zip(axes, ("forward_ms", "gradient_ms")):
            for dispatch in ("dense", "sparse"):
                of_dispatch = [r for r in mixtures if r["dispatch"] == dispatch]
                ax.loglog([r["experts"] for r in of_dispatch], [r[column] for r in of_dispatch], marker="o", label=dispatch)
            ax.set(xlabel="experts", ylabel="ms", title=column.removesuffix("_ms"))
        axes[0].legend()
        path = os.path.join(folder, "experts.png")
        paths.append(path)
        figure.savefig(path, dpi=120)
        plt.close(figure)
    return [path for path in paths if path]

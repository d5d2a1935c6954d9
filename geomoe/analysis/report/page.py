"""The page of the report: its sections put into the template."""

from __future__ import annotations

import datetime
import html
import importlib.resources
import os
import string
from collections.abc import Callable

from geomoe import data
from geomoe.analysis.report import sections
from geomoe.files import atomic_open
from geomoe.pretrained import PretrainedEncoder, load
from geomoe.probing.features import load_images
from geomoe.training import read_run
from geomoe.version import __version__


def write_report(
    run_dir: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    checkpoint: str | int = "last",
    data_dir: str | os.PathLike | None = None,
    split: str | None = None,
    max_images: int = 512,
) -> str:
    """Write the report of a run.

    Args:
        run_dir: of `train.py`.
        output: the HTML file; None is `report.html` in the run directory.
        checkpoint: "last", "best" or a step.
        data_dir, split: where and what the held-out images are; None takes those of the run's config. Where the dataset is
            absent the report says so and leaves out what needs images.
        max_images: held-out images to look at.

    Returns:
        The path of the file.
    """
    run_dir = os.fspath(run_dir)
    run = read_run(run_dir)
    encoder = load(run_dir, checkpoint)
    note = ""
    images: sections.HeldOut | None = None
    try:
        images = _held_out(encoder, run["config"]["data"], data_dir, split, max_images)
    except (FileNotFoundError, ValueError) as error:
        note = f'<p class="note">Without images: {html.escape(str(error))}</p>'
    parts: list[tuple[str, str, Callable[[], str]]] = [
        ("config", "Config", lambda: sections.config(run, encoder)),
        ("curves", "Curves", lambda: sections.curves(run_dir)),
    ]
    if images is not None:
        shown = images  # for the functions below: not None
        parts += [
            ("reconstructions", "Reconstructions", lambda: sections.reconstructions(encoder, shown)),
            ("routing", "Routing", lambda: sections.routing(encoder, shown)),
            ("metadata", "Metadata", lambda: sections.sensitivity(encoder, shown)),
        ]
    parts.append(("probes", "Probes", lambda: sections.probes(run_dir)))
    if images is not None:
        parts.append(("projection", "Projection", lambda: sections.projection(encoder, shown)))
    cfg = encoder.config
    time = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = (
        f"<p>{html.escape(encoder.source)}; {encoder.num_params:,} encoder parameters, {cfg.depth} layers of width "
        f"{cfg.width}; images of {cfg.img_size} x {cfg.img_size} pixels; trained on {html.escape(str(run['dataset']))}. "
        f"Written {time} by geomoe {__version__}.</p>{note}"
    )
    template = importlib.resources.files("geomoe.analysis.report").joinpath("template.html").read_text("utf-8")
    page = string.Template(template).substitute(
        title=html.escape(f"geomoe run {os.path.basename(os.path.abspath(run_dir))}"),
        head=head,
        links="".join(f'<a href="#{key}">{title}</a>' for key, title, _ in parts),
        body="\n".join(f'<section id="{key}"><h2>{title}</h2>{section()}</section>' for key, title, section in parts),
    )
    path = os.fspath(output) if output is not None else os.path.join(run_dir, "report.html")
    with atomic_open(path, encoding="utf-8") as file:
        file.write(page)
    return path


def _held_out(
    encoder: PretrainedEncoder, config: dict, data_dir: str | os.PathLike | None, split: str | None, limit: int
) -> sections.HeldOut:
    """Held-out images of the run's dataset, prepared as in its training but without crops at random."""
    source = data.builder(config["name"], data_dir or config["data_dir"])
    resize_mode = "resize" if config["resize_mode"] == "resize" else "centre_crop"
    clip = tuple(config["clip"]) or None
    batch = load_images(
        encoder,
        source,
        split or config["val_split"],
        limit=limit,
        resize_mode=resize_mode,
        clip=clip,
        hour=config["hour"],
        batch_size=128,
    )
    classes = source.info.features["labels"].feature.names or []
    return sections.HeldOut.of(batch, source.info.metadata["task"], classes)

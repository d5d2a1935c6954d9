"""A run on one page, a self-contained HTML file: config, curves, reconstructions, routing, sensitivity, probes, projection."""

import datetime
import html
import importlib.resources
import os
import string

from geomoe.analysis.report import sections
from geomoe.files import atomic_open
from geomoe.landsat import Statistics
from geomoe.pretrained import PretrainedEncoder, load
from geomoe.probing.features import load_images
from geomoe.training import read_run
from geomoe.training.input import held_out_data
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

    Raises:
        ValueError: the dataset has no such split as was asked for.
    """
    run_dir = os.fspath(run_dir)
    run = read_run(run_dir)
    encoder = load(run_dir, checkpoint)
    parts = {"config": sections.config(run, encoder), "curves": sections.curves(run_dir)}
    note = ""
    try:
        images = _held_out(encoder, run["config"]["data"], data_dir, split, max_images)
    except (FileNotFoundError, ValueError) as error:
        if split is not None and not isinstance(error, FileNotFoundError):
            raise  # asked for by name
        note = f'<p class="note">Without images: {html.escape(str(error))}</p>'
        parts["probes"] = sections.probes(run_dir)
    else:
        parts["reconstructions"] = sections.reconstructions(encoder, images)
        parts["routing"] = sections.routing(encoder, images)
        parts["metadata"] = sections.sensitivity(encoder, images)
        parts["probes"] = sections.probes(run_dir)
        parts["projection"] = sections.projection(encoder, images)
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
        links="".join(f'<a href="#{key}">{key.capitalize()}</a>' for key in parts),
        body="\n".join(f'<section id="{key}"><h2>{key.capitalize()}</h2>{text}</section>' for key, text in parts.items()),
    )
    path = os.fspath(output) if output is not None else os.path.join(run_dir, "report.html")
    with atomic_open(path, encoding="utf-8") as file:
        file.write(page)
    return path


def _held_out(
    encoder: PretrainedEncoder, config: dict, data_dir: str | os.PathLike | None, split: str | None, limit: int
) -> sections.HeldOut:
    """Held-out images of the run, prepared as in its training but without crops at random."""
    folder = None if data_dir is None else os.fspath(data_dir)
    source, statistics = held_out_data(config, Statistics.of(encoder.statistics), data_dir=folder, split=split)
    resize_mode = "resize" if config["resize_mode"] == "resize" else "centre_crop"
    options = dict(resize_mode=resize_mode, clip=tuple(config["clip"]) or None, hour=config["hour"], statistics=statistics)
    batch = load_images(encoder, source, split or config["val_split"], limit=limit, batch_size=128, **options)
    classes = source.info.features["labels"].feature.names or []
    return sections.HeldOut.of(batch, statistics, source.info.metadata["task"], classes)

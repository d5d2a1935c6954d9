"""Converts a source once into records: `python -m geomoe.cli.prepare --dataset NAME --source DIR --data_dir DIR`."""

import argparse
import collections
import json
import os
import shlex
import sys
import time
from typing import Any

import rich.console
import rich.progress
import rich.table

from geomoe.cli.options import add_image_options, image_options
from geomoe.cli.setup import clear_errors, program, start
from geomoe.files import atomic_open
from geomoe.landsat import LINEAR, SCALES
from geomoe.progress import progress_bar


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("prepare"), description=__doc__)
    parser.add_argument(
        "--dataset",
        required=True,
        help="bigearthnet_landsat[/19|/43], eurosat_landsat, landsat_folder[/NAME], landsat_scene[/NAME], "
        "synthetic_landsat[/covers|/dominant]",
    )
    parser.add_argument("--source", help="folder to convert (not for synthetic_landsat)")
    parser.add_argument("--data_dir", default="data", help="where prepared datasets live (default: data)")
    parser.add_argument("--labels", help="landsat_folder: CSV of labels, coordinates and times")
    add_image_options(parser)
    parser.add_argument("--side", type=int, help="landsat_scene: side of the patches, in pixels (default: 48)")
    parser.add_argument("--stride", type=int, help="landsat_scene: pixels from one patch to the next (default: --side)")
    parser.add_argument(
        "--rows", type=int, nargs=2, metavar=("FIRST", "LAST"), help="landsat_scene: rows of the scene to cut between"
    )
    parser.add_argument("--max_cloud", type=float, help="landsat_scene: largest share of clouds in a patch (default: 0.5)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--beam_options", help="of Apache Beam, as '--runner=DirectRunner', whose workers convert")
    parser.add_argument("--strict", action="store_true", help="stop at the first flawed patch")
    parser.add_argument("--keep_nodata", action="store_true", help="keep patches in which every pixel is 0")
    parser.add_argument(
        "--verify", action="store_true", help="check the shards of a prepared dataset; with its source, rebuild damaged ones"
    )
    parser.add_argument("--statistics", action="store_true", help="compute and print statistics of a prepared dataset's bands")
    parser.add_argument("--split", default="train", help="split for --statistics (default: train)")
    scale = "of --statistics: log is of the logarithm of reflectance (default: linear)"
    parser.add_argument("--scale", choices=SCALES, help=scale)
    args = parser.parse_args(argv)
    if args.scale and not args.statistics:
        raise ValueError(f"--scale {args.scale} is of --statistics; add that")
    if args.workers < 1:
        raise ValueError(f"--workers {args.workers} must be at least 1")

    start()
    from geomoe import data

    base, _, config = args.dataset.partition("/")
    if base not in data.BUILDERS:
        raise ValueError(f"unknown dataset {base!r}; there are {', '.join(data.BUILDERS)}")
    if args.labels and base != "landsat_folder":
        raise ValueError("--labels is for landsat_folder; the other datasets bring their labels")
    said = image_options(args)
    if said and base not in ("landsat_folder", "landsat_scene"):
        what = "the other datasets are Landsat 8's, in Collection 2 digital numbers"
        raise ValueError(f"--{next(iter(said))} is for landsat_folder and landsat_scene; {what}")
    scene_only = {key: getattr(args, key) for key in ("side", "stride", "rows", "max_cloud")}
    scene_only = {key: value for key, value in scene_only.items() if value is not None}
    if scene_only and base != "landsat_scene":
        raise ValueError(f"--{next(iter(scene_only))} is for landsat_scene")
    console = rich.console.Console(stderr=True)
    synthetic = base == "synthetic_landsat"
    if not synthetic and args.source is None and not args.statistics and not args.verify:
        raise ValueError(f"--source is missing: the folder that holds {base}")
    if synthetic or args.source is not None or args.verify:
        options = ({} if synthetic else {"source": args.source}) | said | scene_only | ({"config": config} if config else {})
        if base == "landsat_folder":
            options["labels"] = args.labels
        (_verify if args.verify else _prepare)(data.BUILDERS[base], options, args, console)
    if args.statistics:
        statistics = data.compute_statistics(args.dataset, args.split, args.data_dir, scale=args.scale or LINEAR)
        path = os.path.join(data.builder(args.dataset, args.data_dir).data_dir, "statistics.json")
        with atomic_open(path) as file:
            json.dump(dict(statistics), file, indent=1)
        print(json.dumps(dict(statistics)))
        console.print(f"written to {path}; a run computes its own with --config.data.statistics=computed")


def _builder(builder_class: Any, options: dict[str, Any], args: argparse.Namespace, bar: rich.progress.Progress) -> Any:
    task = bar.add_task(f"converting {args.dataset}", total=None)
    return builder_class(
        data_dir=args.data_dir,
        workers=args.workers,
        beam_options=args.beam_options and shlex.split(args.beam_options),
        strict=args.strict,
        keep_nodata=args.keep_nodata,
        progress=lambda done, total: bar.update(task, completed=done, total=total),
        **options,
    )


def _verify(builder_class: Any, options: dict[str, Any], args: argparse.Namespace, console: rich.console.Console) -> None:
    with progress_bar(console) as bar:
        builder = _builder(builder_class, options, args, bar)
        rebuilt = builder.verify()
    console.print(
        f"rebuilt: {', '.join(rebuilt)}" if rebuilt else f"all shards in {builder.data_dir} are whole", soft_wrap=True
    )


def _prepare(builder_class: Any, options: dict[str, Any], args: argparse.Namespace, console: rich.console.Console) -> None:
    from geomoe.data.builders import read_skipped

    began = time.monotonic()
    with progress_bar(console) as bar:
        builder = _builder(builder_class, options, args, bar)
        there = os.path.exists(os.path.join(builder.data_dir, "dataset_info.json"))
        if not there:
            builder.download_and_prepare()
    seconds = time.monotonic() - began
    skipped = read_skipped(builder.data_dir)
    counts = {name: info.num_examples for name, info in builder.info.splits.items()}
    used = sum(counts.values())
    splits = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    if there:
        changed = ", from other files or labels than the source has now" if builder.source_has_changed() else ""
        console.print(f"{builder.data_dir} is prepared already ({splits}){changed}; remove it to convert again", soft_wrap=True)
    else:
        resumed = f", {builder.resumed_shards} shards from an earlier run" if builder.resumed_shards else ""
        console.print(
            f"{used:,} of {used + len(skipped):,} patches in {seconds:.1f} s{resumed}: {splits}; in {builder.data_dir}"
        )
    if skipped:
        table = rich.table.Table("skipped", "patches", box=None)
        table.add_column("first of them", overflow="fold")
        for kind, number in collections.Counter(row.kind for row in skipped).most_common():
            table.add_row(kind, str(number), next(f"{row.path}: {row.message}" for row in skipped if row.kind == kind))
        console.print(table)
        console.print(f"all of them: {os.path.join(builder.data_dir, 'skipped.csv')}")


if __name__ == "__main__":
    sys.exit(clear_errors(main))

"""Embed a dataset, a folder of patches or a scene into a file.

    python -m geomoe.cli.embed --checkpoint RUN --dataset synthetic_landsat --split test --output test.parquet
    python -m geomoe.cli.embed --checkpoint RUN --folder DIR --output patches.npz
    python -m geomoe.cli.embed --checkpoint RUN --scene DIR_OR_FILE --unit level1_dn --output scene.tif
    python -m geomoe.cli.embed --checkpoint RUN --scene DIR_OR_FILE --resolution token --dtype int8 --output map.tif

An interrupted run goes on with the same command. Several processes of one command share the patches of --dataset and --folder,
and the first writes the output, in a folder that all see. Windows and patches without data are marked, not embedded.
"""

import argparse
import glob
import os
import sys
from collections.abc import Callable
from typing import Any

from geomoe.cli.options import OF_SCENES, add_options, image_options, input_spec, window_options
from geomoe.cli.setup import add_process_arguments, clear_errors, program
from geomoe.progress import progress_bar


def main(argv: list[str] | None = None) -> None:
    from geomoe.data.preprocess import RESIZE_MODES

    parser = argparse.ArgumentParser(prog=program("embed"), description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="prepared dataset, name or name/config")
    source.add_argument("--folder", help="folder of GeoTIFF patches")
    source.add_argument("--scene", nargs="+", help="a GeoTIFF, a folder with one file a band, or the band files; or addresses")
    source.add_argument("--stac", help="a STAC item of a scene, file or address")
    stack = "scenes of several dates on one grid, or .json files of STAC items: each date, and the mean over clear ones"
    source.add_argument("--stack", nargs="+", help=stack)
    parser.add_argument("--output", required=True, help=".parquet, .npz, or .tif or .zarr for scenes")
    parser.add_argument("--split", help="of --dataset (default: test)")
    parser.add_argument("--data_dir", help="where prepared datasets live (default: data)")
    modes = [mode for mode in RESIZE_MODES if mode != "exact"]
    parser.add_argument("--resize_mode", choices=modes, help="of patches: centre_crop (default) or resize")
    parser.add_argument("--time", help="of a scene, UTC, ISO 8601, where it does not tell")
    add_options(parser, max_cloud="1, for --stack 0.2")
    start = add_process_arguments(parser)
    args = parser.parse_args(argv)
    _check_options(args)
    start(args)
    import jax

    from geomoe import embeddings
    from geomoe.models.pooling import parse_pool
    from geomoe.pretrained import load

    resize_mode = args.resize_mode or "centre_crop"
    spec = input_spec(args, resize_mode=resize_mode)
    pool = args.pool and parse_pool(args.pool)
    bar = progress_bar(hidden=jax.process_index() > 0)
    task = bar.add_task("embedding", total=None)

    def progress(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    sink = embeddings.Sink(args.output, pool, args.dtype, args.batch_size, progress, args.interleave)
    encoder = load(args.checkpoint, args.which)
    with bar:
        if args.dataset:
            records = dict(data_dir=args.data_dir or "data", resize_mode=resize_mode, nodata=args.nodata)
            records["statistics"] = spec.statistics
            counts = embeddings.embed_dataset(encoder, sink, args.dataset, args.split or "test", **records)
        elif args.folder:
            say = lambda text: bar.console.print(text, soft_wrap=True, markup=False, highlight=False)
            skipped, cropped = lambda error: say(f"skipped: {error}"), _Cropped(say, encoder.config.img_size)
            counts = embeddings.embed_folder(encoder, sink, args.folder, spec=spec, skipped=skipped, cropped=cropped)
        else:
            counts = _embed_scenes(encoder, sink, spec, args)
    if jax.process_index() > 0:
        return
    files = [args.output] if os.path.isfile(args.output) else glob.iglob(f"{glob.escape(args.output)}/**", recursive=True)
    size = sum(map(os.path.getsize, files)) / 1e6
    said = f"{counts['patches'] - counts['embedded']:,} marked (too little data, or clouds)"
    if counts.get("skipped"):
        said += f", {counts['skipped']:,} files skipped"
    print(f"{args.output}: {counts['embedded']:,} embeddings, {said}, {size:.1f} MB")


class _Cropped:
    """Says once that files are larger than the model's images."""

    def __init__(self, say: Callable[[str], None], side: int) -> None:
        self._say, self._side, self._said = say, side, False

    def __call__(self, path: str, size: tuple[int, int]) -> None:
        if not self._said:
            middle = f"of which the middle {self._side} x {self._side} are embedded"
            other = "--resize_mode resize takes the whole, coarser; --scene, or geomoe catalogue, all of it in windows"
            self._say(f"note: {path} has {size[0]} x {size[1]} pixels, {middle}, and so of other large files; {other}")
        self._said = True


def _check_options(args: argparse.Namespace) -> None:
    """Raise ValueError where an option has no meaning for the source."""
    for name in ("dataset", "folder", "scene", "stac", "stack"):
        if getattr(args, name) == "" or getattr(args, name) == [""]:
            raise ValueError(f"--{name} is empty, as of a variable of the shell that is not set; say which it is")
    scenes = args.scene or args.stac or args.stack
    for name in (*OF_SCENES, "time"):
        if getattr(args, name) is not None and not scenes:
            raise ValueError(f"--{name} is for --scene, --stac and --stack")
    for name in ("split", "data_dir"):
        if getattr(args, name) is not None and not args.dataset:
            raise ValueError(f"--{name} is for --dataset")
    if args.time and args.stack:
        raise ValueError("--time is of one scene; those of --stack say theirs by their names, metadata files or STAC items")
    if args.resize_mode and scenes:
        raise ValueError("--resize_mode is for patches; the windows of a scene have the model's size")
    if args.dataset and image_options(args):
        said = ", ".join(f"--{name}" for name in image_options(args))
        raise ValueError(f"{said}: a dataset says its numbers and bands itself; this is for --folder and scenes")


def _embed_scenes(encoder: Any, sink: Any, spec: Any, args: argparse.Namespace) -> dict[str, int]:
    """Embed the scene of --scene or --stac, or the scenes of --stack."""
    from geomoe import embeddings
    from geomoe.data.stac import read_items

    windows = dict(spec=spec, **window_options(args)) | ({"time": args.time} if args.time else {})
    if args.stack:
        scenes = [read_items(path) if path.partition("?")[0].endswith("json") else [path] for path in args.stack]
        return embeddings.embed_stack(encoder, sink, [scene for group in scenes for scene in group], **windows)
    if args.scene:
        return embeddings.embed_scene(encoder, sink, args.scene[0] if len(args.scene) == 1 else args.scene, **windows)
    items = read_items(args.stac)
    if len(items) > 1:
        raise ValueError(f"{args.stac} holds {len(items)} items; --stac takes one, --stack several of one place")
    return embeddings.embed_scene(encoder, sink, items[0], **windows)


if __name__ == "__main__":
    sys.exit(clear_errors(main))

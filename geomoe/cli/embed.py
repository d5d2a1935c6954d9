"""Embed a dataset, a folder of patches or a scene into a file.

    python -m geomoe.cli.embed --checkpoint RUN --dataset synthetic_landsat --split test --output test.parquet
    python -m geomoe.cli.embed --checkpoint RUN --folder DIR --output patches.npz
    python -m geomoe.cli.embed --checkpoint RUN --scene DIR_OR_FILE --unit level1_dn --output scene.tif
    python -m geomoe.cli.embed --checkpoint RUN --scene DIR_OR_FILE --resolution token --dtype int8 --output map.tif

An interrupted run goes on with the same command. Several processes of one command share the patches of --dataset and --folder,
and the first writes the output, in a folder that all see. Windows and patches without data are marked, not embedded.
"""

import argparse
import os
import sys
from typing import Any

from geomoe.cli.setup import add_process_arguments, clear_errors
from geomoe.progress import progress_bar


def main(argv: list[str] | None = None) -> None:
    from geomoe import landsat
    from geomoe.data.preprocess import NODATA_MODES, RESIZE_MODES
    from geomoe.embeddings.rasters import RESOLUTIONS
    from geomoe.embeddings.vectors import DTYPES

    parser = argparse.ArgumentParser(prog="python -m geomoe.cli.embed", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="run directory of train.py, or published weights (.pth)")
    parser.add_argument("--which", default="last", help="checkpoint of a run directory: last, best or a step")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="prepared dataset, name or name/config")
    source.add_argument("--folder", help="folder of GeoTIFF patches")
    source.add_argument("--scene", nargs="+", help="a GeoTIFF, a folder with one file a band, or the band files; or addresses")
    source.add_argument("--stac", help="a STAC item of a scene, file or address")
    stack = "scenes of several dates on one grid, or .json files of STAC items: each date, and the mean over clear ones"
    source.add_argument("--stack", nargs="+", help=stack)
    parser.add_argument("--output", required=True, help=".parquet, .npz, or .tif for scenes")
    parser.add_argument("--pool", help="pooling, as mean, stages or stages+metadata (default: mean)")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="of the vectors in the file; int8 has a scale a dimension"
    )
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--split", default="test", help="of --dataset (default: test)")
    parser.add_argument("--data_dir", default="data", help="where prepared datasets live (default: data)")
    units = "of the numbers of --folder or --scene (default: what the scene says, or collection2_dn)"
    parser.add_argument("--unit", choices=landsat.UNITS, help=units)
    parser.add_argument("--sensor", choices=landsat.SENSORS, help="of the numbers (default: by scene or file, or landsat8)")
    parser.add_argument("--bands", help="names of the bands of the files, joined by commas: blue,green,red")
    parser.add_argument("--fill_missing", action="store_true", help="give bands that the files lack as the training mean")
    modes = [mode for mode in RESIZE_MODES if mode != "exact"]
    parser.add_argument("--resize_mode", choices=modes, help="of patches: centre_crop (default) or resize")
    parser.add_argument("--sun_elevation", type=float, help="degrees, for --unit level1_dn (default: the scene's own)")
    parser.add_argument("--uint8_range", type=float, nargs=2, help="reflectances that 1 and 255 stand for (default: 0 1)")
    cells = "a pixel of the map is a window's stride, a patch (token) or a pixel of the scene"
    parser.add_argument("--resolution", choices=RESOLUTIONS, help=f"of the map of a scene: {cells} (default: window)")
    parser.add_argument("--stride", type=int, help="of the windows of a scene, in pixels (default: half a window)")
    parser.add_argument("--min_valid", type=float, default=0.5, help="least share of a window that holds data (default: 0.5)")
    parser.add_argument("--max_cloud", type=float, help="largest share of clouds in a window (default: 1, for --stack 0.2)")
    quality = ", ".join(landsat.QUALITY_CLASSES)
    parser.add_argument("--mask", help=f"pixels of a scene to take for such without data, joined by commas: {quality}")
    parser.add_argument("--nodata", choices=NODATA_MODES, default="masked", help="pixels without data do not speak, or do")
    parser.add_argument("--time", help="of a scene, UTC, ISO 8601, where it does not tell")
    start = add_process_arguments(parser)
    args = parser.parse_args(argv)
    for name in ("resolution", "stride", "time", "mask"):
        if getattr(args, name) is not None and not (args.scene or args.stac or args.stack):
            raise ValueError(f"--{name} is for --scene, --stac and --stack")
    if args.time and args.stack:
        raise ValueError("--time is of one scene; those of --stack say theirs by their names, metadata files or STAC items")
    if args.resize_mode and (args.scene or args.stac or args.stack):
        raise ValueError("--resize_mode is for patches; the windows of a scene have the model's size")
    described = {name: getattr(args, name) for name in ("sensor", "bands", "sun_elevation", "uint8_range")}
    if args.dataset and (args.fill_missing or args.unit or any(described.values())):
        raise ValueError(
            "--unit, --bands, --fill_missing and the like are for --folder and --scene; datasets hold digital numbers"
        )

    start(args)
    import jax

    from geomoe import embeddings
    from geomoe.data.preprocess import InputSpec
    from geomoe.models.pooling import parse_pool
    from geomoe.pretrained import load

    options: dict[str, Any] = {key: value for key, value in described.items() if value is not None}
    if args.bands:
        options["bands"] = tuple(args.bands.split(","))
    if args.uint8_range:
        options["uint8_range"] = tuple(args.uint8_range)
    resize_mode = args.resize_mode or "centre_crop"
    options |= dict(unit=args.unit, fill_missing=args.fill_missing, resize_mode=resize_mode, nodata=args.nodata)
    spec = InputSpec(**options)
    encoder = load(args.checkpoint, args.which)
    with progress_bar(hidden=jax.process_index() > 0) as bar:
        task = bar.add_task("embedding", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        sink = embeddings.Sink(args.output, args.pool and parse_pool(args.pool), args.dtype, args.batch_size, progress)
        if args.dataset:
            records = dict(data_dir=args.data_dir, resize_mode=resize_mode, nodata=args.nodata)
            counts = embeddings.embed_dataset(encoder, sink, args.dataset, args.split, **records)
        elif args.folder:
            skipped = lambda error: bar.console.print(f"skipped: {error}", soft_wrap=True)
            counts = embeddings.embed_folder(encoder, sink, args.folder, spec=spec, skipped=skipped)
        else:
            counts = _embed_scenes(encoder, sink, spec, args)
    if jax.process_index() > 0:
        return
    size = os.path.getsize(args.output) / 1e6
    marked = counts["patches"] - counts["embedded"]
    print(f"{args.output}: {counts['embedded']:,} embeddings, {marked:,} marked (too little data, or clouds), {size:.1f} MB")


def _embed_scenes(encoder: Any, sink: Any, spec: Any, args: argparse.Namespace) -> dict[str, int]:
    """Embed the scene of --scene or --stac, or the scenes of --stack."""
    from geomoe import embeddings
    from geomoe.data.stac import read_items

    options = {name: getattr(args, name) for name in ("resolution", "stride", "time", "min_valid", "max_cloud")}
    windows = {name: value for name, value in options.items() if value is not None}
    windows |= dict(spec=spec, mask=tuple(args.mask.split(",")) if args.mask else ())
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

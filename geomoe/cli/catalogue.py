"""Embed many scenes, each to a file of its own, in this process or by Apache Beam.

    python -m geomoe.cli.catalogue --checkpoint RUN --scenes scenes.txt --output FOLDER
    python -m geomoe.cli.catalogue --checkpoint RUN --scenes search.json --output FOLDER --beam_options OPTIONS

`--scenes` is a text file of paths or addresses, one a line, or a STAC search result; the options of Apache Beam are its own.
The same command goes on where it was interrupted; scenes that fail are listed in FOLDER/scenes.csv with their error.
"""

import argparse
import shlex
import sys
from typing import Any

from geomoe.cli.setup import clear_errors, start
from geomoe.progress import progress_bar


def main(argv: list[str] | None = None) -> None:
    from geomoe import landsat
    from geomoe.data.preprocess import NODATA_MODES
    from geomoe.embeddings.rasters import RESOLUTIONS
    from geomoe.embeddings.vectors import DTYPES

    parser = argparse.ArgumentParser(prog="python -m geomoe.cli.catalogue", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="of the encoder, as for geomoe.load; every worker has to reach it")
    parser.add_argument("--which", default="last", help="checkpoint of a run directory: last, best or a step")
    parser.add_argument("--scenes", required=True, help="a text file with a path or address a line, or a STAC search result")
    parser.add_argument("--output", required=True, help="folder of the files of embeddings; every worker has to reach it")
    parser.add_argument("--format", default=".parquet", choices=(".parquet", ".npz", ".tif"), help="default: .parquet")
    parser.add_argument("--pool", default="mean", help="pooling, as mean, stages or stages+metadata (default: mean)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the vectors in the files")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--unit", choices=landsat.UNITS, help="of the numbers (default: what each scene says)")
    parser.add_argument("--sensor", choices=landsat.SENSORS, help="of the numbers (default: what each scene says)")
    parser.add_argument("--resolution", choices=RESOLUTIONS, default="window", help="of maps (default: window)")
    parser.add_argument("--stride", type=int, help="of the windows, in pixels (default: half a window)")
    parser.add_argument("--min_valid", type=float, default=0.5, help="least share of a window that holds data (default: 0.5)")
    parser.add_argument("--max_cloud", type=float, default=1.0, help="largest share of clouds in a window (default: 1)")
    parser.add_argument("--mask", default="", help=f"classes to mask, by commas: {', '.join(landsat.QUALITY_CLASSES)}")
    parser.add_argument("--nodata", choices=NODATA_MODES, default="masked", help="pixels without data do not speak, or do")
    parser.add_argument("--beam_options", help="of Apache Beam, as '--runner=DirectRunner', whose workers embed")
    args = parser.parse_args(argv)
    start()
    from geomoe.data.preprocess import InputSpec
    from geomoe.embeddings.catalogue import RESULTS, CatalogueJob, embed_scenes
    from geomoe.models.pooling import parse_pool

    options: dict[str, Any] = dict(
        resolution=args.resolution, min_valid=args.min_valid, max_cloud=args.max_cloud, stride=args.stride
    )
    options["mask"] = tuple(args.mask.split(",")) if args.mask else ()
    spec = InputSpec(unit=args.unit, sensor=args.sensor, nodata=args.nodata)
    run = dict(which=args.which, pool=parse_pool(args.pool), dtype=args.dtype, batch_size=args.batch_size)
    job = CatalogueJob(args.checkpoint, args.output, args.format, spec=spec, options=options, **run)
    beam_options = None if args.beam_options is None else shlex.split(args.beam_options)
    with progress_bar() as bar:
        task = bar.add_task("scenes", total=None)
        progress = lambda done, total: bar.update(task, completed=done, total=total)
        results = embed_scenes(job, _read_scenes(args.scenes), beam_options=beam_options, progress=progress)
    failed = [result for result in results if result.error]
    print(f"{args.output}: {len(results) - len(failed)} scenes embedded, {len(failed)} failed; all of them: {RESULTS} there")
    for result in failed[:5]:
        print(f"  {result.scene}: {result.error}")


def _read_scenes(path: str) -> list[Any]:
    """Paths or addresses of a text file, or the items of a STAC search result."""
    from geomoe.data.stac import read_items

    if path.partition("?")[0].endswith("json"):
        return list(read_items(path))
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip() and not line.startswith("#")]


if __name__ == "__main__":
    sys.exit(clear_errors(main))

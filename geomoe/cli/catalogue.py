"""Embed many scenes, each to a file of its own, in this process or by Apache Beam.

    python -m geomoe.cli.catalogue --checkpoint RUN --scenes scenes.txt --output FOLDER
    python -m geomoe.cli.catalogue --checkpoint RUN --scenes search.json --output FOLDER --beam_options OPTIONS

`--scenes` is a text file of paths or addresses, one a line, or a STAC search result. Lines that begin with # are comments. The
options of Apache Beam are its own, and every one of its workers has to reach the checkpoint, the scenes and the folder.
The same command goes on where it was interrupted; scenes that fail are listed in FOLDER/scenes.csv with their error.
"""

import argparse
import os
import shlex
import sys
from typing import Any

from geomoe.cli.options import add_options, input_spec, window_options
from geomoe.cli.setup import clear_errors, program, start
from geomoe.progress import progress_bar


def main(argv: list[str] | None = None) -> None:
    from geomoe.embeddings.files import FORMATS

    parser = argparse.ArgumentParser(prog=program("catalogue"), description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", required=True, help="a text file with a path or address a line, or a STAC search result")
    parser.add_argument("--output", required=True, help="folder of the files of embeddings")
    parser.add_argument("--format", default=".parquet", choices=FORMATS, help="default: .parquet")
    parser.add_argument("--beam_options", help="of Apache Beam, as '--runner=DirectRunner', whose workers embed")
    add_options(parser)
    args = parser.parse_args(argv)
    start()
    from geomoe.embeddings.catalogue import CatalogueJob, embed_scenes
    from geomoe.embeddings.results import RESULTS
    from geomoe.models.pooling import parse_pool

    run = dict(which=args.which, pool=args.pool and parse_pool(args.pool))
    run |= {name: getattr(args, name) for name in ("dtype", "batch_size", "interleave")}
    spec, options = input_spec(args), window_options(args)
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
    if len(failed) == len(results):
        raise ValueError(f"none of the {len(results)} scenes could be embedded")


def _read_scenes(path: str) -> list[Any]:
    """Paths or addresses of a text file, in quotes or not, or the items of a STAC search result."""
    from geomoe.data.stac import read_items
    from geomoe.data.tables import read_lines

    if path.partition("?")[0].endswith("json"):
        return list(read_items(path))
    if os.path.isdir(path):
        raise ValueError(f"--scenes {path} is a folder; name its scenes in a text file: ls -d {path}/* > scenes.txt")
    lines = [line for _, line in read_lines(path, compose=False) if not line.startswith("#")]
    return [line[1:-1] if len(line) > 2 and line[0] == line[-1] and line[0] in "\"'" else line for line in lines]


if __name__ == "__main__":
    sys.exit(clear_errors(main))

"""Writes a run's report, one HTML page: `python -m geomoe.cli.report RUN_DIR`."""

import argparse
import os
import sys

from geomoe.cli.setup import clear_errors, program, start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("report"), description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", help="run directory of train.py")
    parser.add_argument("--output", help="HTML file (default: RUN_DIR/report.html)")
    parser.add_argument("--which", default="last", help="checkpoint: last, best or a step")
    parser.add_argument("--data_dir", help="where prepared datasets live (default: that of the run)")
    parser.add_argument("--split", help="of the run's dataset, to look at (default: the run's validation split)")
    parser.add_argument("--max_images", type=int, default=512, help="held-out images to look at (default: 512)")
    args = parser.parse_args(argv)
    if args.max_images < 16:
        raise ValueError(f"--max_images {args.max_images} must be at least 16")
    start()
    from geomoe.analysis.report import write_report

    options = dict(checkpoint=args.which, data_dir=args.data_dir, split=args.split, max_images=args.max_images)
    path = write_report(args.run_dir, args.output, **options)
    print(f"report: {os.path.abspath(path)} ({os.path.getsize(path) / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(clear_errors(main))

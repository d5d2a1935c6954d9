"""Pretrains recipes for the same time each, probes them, and writes a table.

    python -m geomoe.cli.recipes configs/recipes/*.py --minutes 10 --seeds 0 1 2 --output runs/recipes \
        --dataset bigearthnet_landsat --choice synthetic_landsat --markdown docs/recipes.md

Rows that OUTPUT/scores.csv has are taken from there, so that an interrupted command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys

from geomoe.cli.setup import clear_errors, start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m geomoe.cli.recipes", description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", help="recipe files; a recipe is named after its file")
    parser.add_argument("--minutes", type=float, default=10.0, help="of pretraining each, compiling aside (default: 10)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", default="runs/recipes", help="folder of the runs and scores.csv (default: runs/recipes)")
    parser.add_argument("--dataset", default="bigearthnet_landsat", help="prepared dataset with labels that is scored on")
    parser.add_argument("--split", default="train", help="of --dataset, cross-validated (default: train)")
    parser.add_argument("--choice", default="", help="prepared dataset with labels to choose recipes and readouts by")
    parser.add_argument("--pools", nargs="+", help="readouts to score (default: mean and stages, without and with place_time)")
    parser.add_argument("--data_dir", default="data", help="where prepared datasets live (default: data)")
    parser.add_argument("--markdown", help="file that the table is written to, between its two marks")
    args = parser.parse_args(argv)
    if args.minutes <= 0:
        raise ValueError(f"--minutes {args.minutes} must be above 0")

    start()
    from geomoe import experiments
    from geomoe.pooling import check_pool

    pools = tuple(args.pools or experiments.POOLS)
    for pool in pools:
        check_pool(pool)
    names = [os.path.splitext(os.path.basename(path))[0] for path in args.recipes]
    scores = experiments.compare(
        {name: experiments.load_recipe(path) for name, path in zip(names, args.recipes)},
        minutes=args.minutes,
        seeds=args.seeds,
        output=args.output,
        name=args.dataset,
        split=args.split,
        data_dir=args.data_dir,
        choice=args.choice,
        pools=pools,
    )
    print(experiments.markdown(scores), end="")
    if args.markdown:
        experiments.write_markdown(args.markdown, scores)


if __name__ == "__main__":
    sys.exit(clear_errors(main))

"""Pretrains recipes for the same time each, probes them, and writes a table.

    python -m geomoe.cli.recipes configs/recipes/*.py --minutes 10 --seeds 0 1 2 --output runs/recipes \
        --dataset bigearthnet_landsat --transfer synthetic_landsat --markdown docs/recipes.md

Rows that OUTPUT/scores.csv has of the same recipes, scored on the same, are taken from there: an interrupted command goes on.
"""

import argparse
import os
import sys

from geomoe.cli.setup import clear_errors, program, start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("recipes"), description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", help="recipe files; a recipe is named after its file")
    parser.add_argument("--minutes", type=float, default=10.0, help="of pretraining each, compiling aside (default: 10)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", default="runs/recipes", help="folder of the runs and scores.csv (default: runs/recipes)")
    parser.add_argument("--dataset", default="bigearthnet_landsat", help="prepared dataset with labels that is scored on")
    parser.add_argument("--split", default="train", help="of --dataset, cross-validated (default: train)")
    parser.add_argument("--transfer", default="", help="another prepared dataset with labels, to try the embeddings on as well")
    parser.add_argument("--pools", nargs="+", help="poolings to score (default: six of them)")
    parser.add_argument("--nodata", default="masked", help="masked or published: what becomes of pixels without data")
    parser.add_argument("--data_dir", default="data", help="where prepared datasets live (default: data)")
    parser.add_argument("--nested", action="store_true", help="choose recipe and pooling by nested folds, with the first seed")
    parser.add_argument("--markdown", help="file that the table is written to, between its two marks")
    args = parser.parse_args(argv)
    paths: dict[str, str] = {}
    for path in args.recipes:
        name = os.path.splitext(os.path.basename(path))[0]
        if name in paths:
            raise ValueError(
                f"{paths[name]} and {path} are both named {name}, and a recipe is named after its file: rename one"
            )
        paths[name] = path

    start()
    from geomoe import experiments
    from geomoe.models.pooling import parse_pool

    pools = tuple(map(parse_pool, args.pools)) if args.pools else experiments.POOLS
    values = {name: getattr(args, name) for name in ("minutes", "output", "dataset", "split", "data_dir", "transfer", "nodata")}
    comparison = experiments.Comparison(pools=pools, **values)
    recipes = {name: experiments.load_recipe(path) for name, path in paths.items()}
    text = experiments.markdown(experiments.compare(recipes, args.seeds, comparison))
    if args.nested:
        choice = experiments.choose(recipes, args.seeds[0], comparison)
        text += "\n" + experiments.describe_choice(choice, comparison, args.seeds[0])
    print(text, end="")
    if args.markdown:
        experiments.write_markdown(args.markdown, text)


if __name__ == "__main__":
    sys.exit(clear_errors(main))

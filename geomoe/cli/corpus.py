"""The corpus of real imagery: cut it, and score encoders on the images that are held out.

python -m geomoe.cli.corpus --prepare ../shared --data_dir data
python train.py --config configs/corpus_real.py --workdir runs/corpus
python -m geomoe.cli.corpus --data_dir data --checkpoints runs/corpus --pools mean mean+metadata_tokens
"""

import argparse
import itertools
import sys

from geomoe.cli.setup import clear_errors, program, start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("corpus"), description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", metavar="FOLDER", help="cut the images below this folder")
    parser.add_argument("--data_dir", default="data", help="where prepared datasets live (default: data)")
    parser.add_argument("--checkpoints", nargs="+", default=[], help="run directories or files of weights to score")
    parser.add_argument("--pools", nargs="+", default=["mean"], help="poolings to score (default: mean)")
    given = "score the encoders with metadata given as well, and say how much of what they are given embeddings hold"
    whose = "score the encoders on images z-scored by the encoders' statistics as well"
    parser.add_argument("--given_metadata", action="store_true", help=given)
    parser.add_argument("--encoder_statistics", action="store_true", help=whose)
    parser.add_argument("--labelled", type=int, default=30, help="windows with a label of the few (default: 30)")
    parser.add_argument("--draws", type=int, default=20, help="of the few labelled windows (default: 20)")
    args = parser.parse_args(argv)
    if args.prepare is None and not args.checkpoints:
        raise ValueError("nothing to do: --prepare FOLDER cuts the images, --checkpoints RUN scores encoders")
    if args.labelled < 2 or args.draws < 2:
        raise ValueError(f"--labelled {args.labelled} and --draws {args.draws} must be at least 2")

    start()
    from geomoe.data.corpus import prepare_corpus

    if args.prepare is not None:
        prepare_corpus(args.prepare, args.data_dir, lambda name, patches: print(f"{name}: {patches:,} patches", flush=True))
    if args.checkpoints:
        _score(args)


def _score(args: argparse.Namespace) -> None:
    from geomoe.analysis import metadata_probe
    from geomoe.experiments import held_out
    from geomoe.models.pooling import check_pooled, parse_pool
    from geomoe.pretrained import load

    for pool in args.pools:
        try:
            check_pooled(parse_pool(pool))
        except ValueError as error:
            raise ValueError(f"--pools {pool}: {error}") from None
    encoders = {path: load(path) for path in args.checkpoints}
    windows = held_out.load_held_out(args.data_dir)
    baselines = held_out.baselines(windows)
    features, compared = dict(baselines), dict[str, list[str]]()  # the sets that another is compared with
    for path, encoder in encoders.items():
        fresh = encoder.random_weights(0)
        for pool in args.pools:
            name, at_random = f"{path}, {pool}", f"random weights of {path}, {pool}"
            features[at_random] = held_out.encoder_features(fresh, parse_pool(pool))
            features[name] = held_out.encoder_features(encoder, parse_pool(pool))
            compared[name] = [at_random, *baselines]
            if args.given_metadata:
                features[f"{name}, metadata given"] = held_out.encoder_features(encoder, parse_pool(pool), True)
                compared[f"{name}, metadata given"] = [name, at_random, *baselines]
            if args.encoder_statistics:
                for one, label in ((fresh, at_random), (encoder, name)):
                    of_encoder = held_out.encoder_features(one, parse_pool(pool), own_statistics=False)
                    features[f"{label}, encoder's statistics"] = of_encoder
                compared[f"{name}, encoder's statistics"] = [name, f"{at_random}, encoder's statistics"]
    options = {"labelled": args.labelled, "draws": args.draws}
    scores = {name: held_out.score_features(some, windows, **options) for name, some in features.items()}
    print(held_out.table(scores, args.labelled), end="")
    if args.given_metadata:
        images, valid = held_out.joined(windows)
        for path, pool in itertools.product(encoders, args.pools):
            held = metadata_probe(encoders[path], images, valid=valid, pool=parse_pool(pool))
            print(f"{path}, {pool}, metadata given at random and read from embeddings: {held}")
    for name, others in compared.items():
        for other in others:
            differences = held_out.paired_difference(scores[name], scores[other])
            for kind in dict.fromkeys(kind for kind, _ in differences):
                found = {source: values for (k, source), values in differences.items() if k == kind}
                cells = ", ".join(f"{source} {mean:+.3f} ({error:.3f})" for source, (mean, error) in found.items())
                print(f"{name} against {other}, {kind}, {args.labelled} labelled: {cells}")


if __name__ == "__main__":
    sys.exit(clear_errors(main))

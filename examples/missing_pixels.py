"""What pixels without data cost: embeddings and a probe's score of whole patches of which a part was taken away.

    python -m geomoe.cli.prepare --dataset bigearthnet_landsat/19 --source ../shared/landsat_sample --data_dir DATA
    python examples/missing_pixels.py --checkpoint runs/demo --dataset bigearthnet_landsat/19 --data_dir DATA

A linear probe is fitted on whole patches and scored on others, five-fold, of which stripes, an edge or a hole hold no data:
"masked", as geomoe embeds them, and "published", with digital number 0 in their place. Prints a Markdown table.
"""

import argparse

import numpy as np

import geomoe
from geomoe import data, landsat, probing


def lacking(kind, share, count, size, rng):
    """(count, size, size) bool: the pixels taken away, at another place in each image."""
    out = np.zeros((count, size, size), bool)
    for image in out:
        if kind == "stripes":  # 16 rows apart, as in Landsat 7 after 2003 at the sides of a scene
            image[(np.arange(size) + rng.integers(16)) % 16 < round(16 * share)] = True
        elif kind == "edge":
            image[:, size - round(size * share) :] = True
        else:
            side = round(size * share**0.5)
            row, column = rng.integers(0, size - side + 1, 2)
            image[row : row + side, column : column + side] = True
    return out


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dataset", required=True, help="prepared, multi-label")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--split", default="train")
    args = parser.parse_args(argv)
    encoder = geomoe.load(args.checkpoint)
    size = encoder.config.img_size
    options = dict(data_dir=args.data_dir, img_size=size, statistics=encoder.statistics, resize_mode="centre_crop")
    batches = list(data.load(args.dataset, args.split, batch_size=64, **options).as_numpy_iterator())
    images, valid, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "valid", "labels"))
    whole = valid.all(axis=(1, 2)) & labels.any(axis=1)
    images, labels = images[whole], labels[whole]
    labels = labels[:, labels.sum(axis=0) >= 5]
    dark = landsat.Statistics.of(encoder.statistics).normalize(np.zeros(len(encoder.bands), np.float32))
    fold = np.random.default_rng(0).permutation(len(images)) % 5
    z = encoder.embed(images, normalized=True)

    def score(features):
        values = []
        for k in range(5):
            train, test = fold != k, fold == k
            result = probing.linear_probe(
                (z[train], labels[train]), (features[test], labels[test]), task="multilabel", resamples=0
            )
            values.append(result.metrics["micro_mAP"])
        return np.mean(values)

    cosine = lambda a: np.median(np.sum(a * z, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(z, axis=1))
    base = score(z)
    print(f"{len(images)} whole patches; micro mAP of whole patches {base:.3f}\n")
    print("| without data | cosine, published | cosine, masked | micro mAP, published | micro mAP, masked |")
    print("|---|---|---|---|---|")
    for share in (0.1, 0.25, 0.5):
        for kind in ("stripes", "edge", "hole"):
            holds = ~lacking(kind, share, len(images), size, np.random.default_rng(1))
            published = encoder.embed(np.where(holds[..., None], images, dark).astype(np.float32), normalized=True)
            masked = encoder.embed(images, normalized=True, valid=holds)
            cells = [f"{cosine(v):.3f}" for v in (published, masked)] + [f"{score(v):.3f}" for v in (published, masked)]
            print(f"| {1 - holds.mean():.0%} {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

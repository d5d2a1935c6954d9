"""A scene and its token map side by side: true colour, and the first three principal components of the tokens as colours.

python examples/token_map_picture.py --checkpoint runs/demo --scene ../shared/landsat_level1_scene --output map.png
"""

import argparse
import pathlib
import tempfile

import matplotlib.image
import numpy as np
import rasterio
from sklearn.decomposition import PCA

import geomoe
from geomoe import embeddings, landsat
from geomoe.data import preprocess
from geomoe.data.scene import SceneReader, open_scene


def stretched(image):
    """(H, W, 3) to [0, 1], each channel from its 2nd to its 98th percentile; NaN is white."""
    low, high = np.nanpercentile(image, (2, 98), axis=(0, 1))
    return np.nan_to_num(np.clip((image - low) / (high - low), 0, 1), nan=1.0)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--scene", required=True)
    parser.add_argument("--output", required=True)
    args = parser.parse_args(argv)
    encoder, info = geomoe.load(args.checkpoint), open_scene(args.scene)
    spec = info.spec(preprocess.InputSpec())
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "map.tif"
        embeddings.embed_scene(encoder, embeddings.Sink(path), args.scene, resolution="token")
        with rasterio.open(path) as file:
            tokens = np.moveaxis(file.read(), 0, 2)
    whole = np.isfinite(tokens).all(axis=2)
    colours = np.full((*whole.shape, 3), np.nan)
    colours[whole] = PCA(3, random_state=0).fit_transform(tokens[whole])
    with SceneReader(info, landsat.BANDS[3:0:-1], str(spec.unit)) as reader:
        values = reader.read(0, 0, info.height, info.width)
        dn = preprocess.to_collection2(values, spec, reader.bands)
    scene = stretched(np.where(dn == 0, np.nan, dn))
    grid = np.repeat(np.repeat(stretched(colours), encoder.config.patch_size, 0), encoder.config.patch_size, 1)
    height, width = (min(a, b) for a, b in zip(scene.shape[:2], grid.shape[:2]))
    gap = np.ones((height, 12, 3))
    matplotlib.image.imsave(args.output, np.hstack([scene[:height, :width], gap, grid[:height, :width]]))


if __name__ == "__main__":
    main()

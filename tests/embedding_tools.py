"""The tiny reference encoder, its images, and what it makes of windows of an array."""

import numpy as np
import pyproj

from geomoe.data import synthetic

SIZE = 8  # pixels a side of its images
ORIGIN = (500000.0, 5000000.0)


def make_ground():
    """(44, 44, 7) digital numbers with a corner without data."""
    image = synthetic.scene(0, "test", 3).image.copy()
    image[:12, :12] = 0
    return image


def windows(encoder, ground, stride=4, time="2020-05-18", min_valid=0.5):
    """Windows of a scene at `ORIGIN`, one after the other, from the array: (lat, lon, x, y, share of data, vector or None)."""
    side = len(ground)
    steps = -(-(side - SIZE) // stride) + 1
    padded = np.zeros((side + SIZE, side + SIZE, 7), np.uint16)
    padded[:side, :side] = ground
    to_wgs84 = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    out = {}
    for i in range(steps):
        for j in range(steps):
            window = padded[i * stride : i * stride + SIZE, j * stride : j * stride + SIZE]
            x, y = ORIGIN[0] + 30 * (j * stride + SIZE / 2), ORIGIN[1] - 30 * (i * stride + SIZE / 2)
            lon, lat = to_wgs84.transform(x, y)
            valid = 1 - (window == 0).any(axis=-1).mean()
            vector = None
            if valid > 0 and valid >= min_valid:
                vector = encoder.embed(window[None], [lat], [lon], [np.datetime64(time)])[0]
            out[i, j] = (lat, lon, x, y, valid, vector)
    return out

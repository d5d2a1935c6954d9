"""Labels that need no annotator: what the pixels of an image say of its windows.

Three kinds, each with what it can and cannot show:

- "indices": thirds of the windows by their spectral indices. Functions of the mean colour, on which even random weights are
  strong, and of which an encoder that learns what is in an image keeps less.
- "classes": which classes of an unsupervised map of the image, by colour and texture, a window shows. Classes of a few pixels
  have to be found beside others, as in land cover.
- "another date": the same classes, of the map of another image of the same ground. Light, season and sensor that only one of
  the two shows are of no use.

Axes: N windows of side S, C bands, K classes.
"""

import numpy as np
from scipy.ndimage import uniform_filter
from sklearn.cluster import KMeans

from geomoe import landsat

CLASSES = 12  # of a map
_SHOWN = 0.05  # share of a window's pixels from which on it shows a class
_RARE = 0.03  # share of the windows below which a class, or its absence, is no label
_FITTED = 40_000  # pixels that the classes are found on


def index_thirds(reflectance: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Thirds of the windows by what their pixels say, one-hot: (N, S, S, 7), (N, S, S) -> (N, 12) 0/1.

    Three columns each, low to high: mean NDVI, mean NDWI, mean NBR, standard deviation of NDVI, over the valid pixels.
    """
    index, weight = landsat.spectral_indices(reflectance), valid[..., None].astype(np.float64)
    count = np.maximum(weight.sum(axis=(1, 2)), 1)
    mean = (index * weight).sum(axis=(1, 2)) / count
    spread = np.sqrt((np.square(index - mean[:, None, None]) * weight).sum(axis=(1, 2)) / count)[:, :1]
    columns = np.concatenate([mean, spread], axis=1).T
    thirds = [np.eye(3, dtype=int)[np.digitize(values, np.quantile(values, [1 / 3, 2 / 3]))] for values in columns]
    return np.concatenate(thirds, axis=1)


def classes_shown(images: np.ndarray, valid: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The classes of an unsupervised map of a source that each of its windows shows: (N, K) 0/1.

    The map is of k-means (MacQueen 1967) on each pixel's colours, means of 3 x 3 pixels, and the logarithm of the standard
    deviation of the mean of all bands in 7 x 7, each standardised over the image. A window shows a class that covers 5 % of it.
    Classes that fewer than 3 % or more than 97 % of the windows show are left out.

    Args:
        images: (N, S, S, C), z-scored.
        valid: (N, S, S); pixels without data are of no class.
        corner: (N, 2), row and column of the windows' upper left pixels.
    """
    side, corner = images.shape[1], corner - corner.min(axis=0)
    image = np.zeros((*(corner.max(axis=0) + side), images.shape[-1]))
    holds = np.zeros(image.shape[:2], bool)
    places = [(slice(row, row + side), slice(column, column + side)) for row, column in corner.tolist()]
    for place, pixels, data in zip(places, images, valid):
        image[place], holds[place] = pixels, data
    grey = image.mean(axis=-1)
    variance = uniform_filter(np.square(grey), 7) - np.square(uniform_filter(grey, 7))
    texture = np.log(np.sqrt(np.maximum(variance, 1e-6)) + 0.05)
    features = np.concatenate([uniform_filter(image, (3, 3, 0)), texture[..., None]], axis=-1)
    known = features[holds]
    features = (features - known.mean(axis=0)) / (known.std(axis=0) + 1e-6)
    known = np.random.default_rng(0).permutation(features[holds])[:_FITTED]
    means = KMeans(CLASSES, n_init=3, random_state=0).fit(known)
    classes = np.where(holds, means.predict(features.reshape(-1, features.shape[-1])).reshape(holds.shape), CLASSES)
    covered = [np.bincount(classes[place].ravel(), minlength=CLASSES + 1)[:CLASSES] / side**2 for place in places]
    shown = (np.array(covered) >= _SHOWN).astype(int)
    share = shown.mean(axis=0)
    return shown[:, (share >= _RARE) & (share <= 1 - _RARE)]


def labels_of_another(corner: np.ndarray, other_corner: np.ndarray, other_labels: np.ndarray) -> np.ndarray | None:
    """The labels that windows of the same corners have in another image, (N, K); None where a window is not there."""
    rows = {tuple(place): row for row, place in enumerate(other_corner.tolist())}
    found = [rows.get(tuple(place)) for place in corner.tolist()]
    return None if None in found else other_labels[np.array(found, int)]

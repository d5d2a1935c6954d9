"""Labels of windows that need no annotator."""

import numpy as np

from geomoe.experiments import free_labels


def test_index_labels_are_thirds_of_what_the_pixels_say():
    """Nine windows of rising vegetation; in the last the pixels that would say otherwise hold no data."""
    reflectance = np.full((9, 4, 4, 7), 0.1)
    reflectance[..., 4] = np.linspace(0.1, 0.5, 9)[:, None, None]  # near infrared
    reflectance[2, :2, :, 4] += 0.05  # the one window that is not the same all over
    reflectance[8, :3, :, 4] = 0.0
    valid = np.ones((9, 4, 4), bool)
    valid[8, :3] = False
    labels = free_labels.index_thirds(reflectance, valid)
    assert labels.shape == (9, 12) and (labels.reshape(9, 4, 3).sum(axis=2) == 1).all()
    np.testing.assert_array_equal(labels[:, :3].argmax(axis=1), [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert labels[2, 9:].argmax() == 2  # the spread of NDVI


def patchwork(side=20, stride=10, colours=6):
    """An image of squares of a few colours, cut into windows: images, corners, and the colours that each window shows."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, colours, (8, 8))
    spectra = 4 * rng.normal(size=(colours, 7))
    shown = np.kron(chosen, np.ones((side, side), int))
    image = spectra[shown] + 0.01 * rng.normal(size=(*shown.shape, 7))
    corners = np.array([(r, c) for r in range(0, 8 * side - side + 1, stride) for c in range(0, 8 * side - side + 1, stride)])
    cut = lambda a: np.stack([a[r : r + side, c : c + side] for r, c in corners])
    colour = np.stack([np.bincount(window.ravel(), minlength=colours) > 0 for window in cut(shown)])
    return cut(image), corners, colour


def test_windows_show_the_classes_of_a_map_of_their_image():
    """Of squares of six colours: for each colour there is a class that just the windows with it show."""
    images, corners, colour = patchwork()
    labels = free_labels.classes_shown(images, np.ones(images.shape[:3], bool), corners + 500)
    share = labels.mean(axis=0)
    assert (share >= 0.03).all() and (share <= 0.97).all()
    for one in colour.T:
        assert max((one == label).mean() for label in labels.T) > 0.95


def test_pixels_without_data_are_of_no_class():
    """The half of the image that holds none shows nothing, whatever stands in it, and leaves the other half its classes."""
    images, corners, colour = patchwork()
    valid = np.ones(images.shape[:3], bool)
    lost = corners[:, 0] >= 80
    valid[lost] = False
    images = np.where(lost[:, None, None, None], 50.0, images)
    labels = free_labels.classes_shown(images, valid, corners)
    assert not labels[lost].any() and labels[corners[:, 0] <= 50].any(axis=1).all()
    kept = corners[:, 0] <= 50
    assert np.mean([max((one == label).mean() for label in labels[kept].T) for one in colour[kept].T]) > 0.95


def test_labels_go_by_corner():
    corners, other = np.array([(0, 0), (0, 4)]), np.array([(4, 4), (0, 4), (0, 0)])
    found = free_labels.labels_of_another(corners, other, np.array([[1], [2], [3]]))
    np.testing.assert_array_equal(found, [[3], [2]])
    assert free_labels.labels_of_another(other, corners, np.array([[1], [2]])) is None

"""The images of a batch as the model takes them: cropped or resized, turned, z-scored. Numpy, one pass an image.

Written this way because it is several times faster than the same in tf.data operations, which cost some ten microseconds each
whatever they do; numpy lets other threads run meanwhile.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from geomoe import landsat
from geomoe.data import preprocess

RESIZE_MODES = ("centre_crop", "random_crop", "random_resized_crop", "resize")
# Uniform numbers that a view of an image takes: row and column of the crop, two flips, the turn, the crop's side, the coastal
# band, and for the jitter a gain and an offset a band and an offset of all.
DRAWS = 7 + 2 * len(landsat.BANDS) + 1
_COASTAL, _BLUE = landsat.BANDS.index("SR_B1"), landsat.BANDS.index("SR_B2")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random choices of training. All off by default.

    Attributes:
        flips: mirror left-right and up-down, each for half of the images.
        rot90: turn by 0, 90, 180 or 270 degrees.
        metadata_dropout: probability with which each of week, hour, latitude and longitude goes missing, on its own.
        coastal_dropout: probability with which an image is given as by a sensor without the coastal band (Landsat 4 to 7): the
            z-scored blue band stands in its place, as where such images are embedded.
        band_jitter: deviation of a random gain around 1 and a random offset around 0 of each band, and of an offset common to
            all, drawn for each view and applied to z-scores: another haze, light, sensor or season.
        crop_sides: smallest and largest side, in pixels, of the squares that "random_resized_crop" cuts; no larger than the
            image. Each side is as likely as any other. () cuts squares of the model's size.
    """

    flips: bool = False
    rot90: bool = False
    metadata_dropout: float = 0.0
    coastal_dropout: float = 0.0
    band_jitter: float = 0.0
    crop_sides: tuple[int, int] | tuple[()] = ()

    def __post_init__(self):
        for name in ("metadata_dropout", "coastal_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be in [0, 1]")
        if not 0 <= self.band_jitter < 1:
            raise ValueError(f"band_jitter = {self.band_jitter} must be in [0, 1)")
        object.__setattr__(self, "crop_sides", tuple(self.crop_sides))
        if self.crop_sides and not (len(self.crop_sides) == 2 and 1 <= self.crop_sides[0] <= self.crop_sides[1]):
            raise ValueError(f"crop_sides = {self.crop_sides} must be (smallest, largest) in pixels, or ()")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done to every image.

    Attributes:
        size: side S of the result, in pixels.
        resize_mode: "centre_crop" (offset rounded down), "random_crop", "random_resized_crop" (a square of a random side, brought to
            S) or "resize" (bilinear). The first two enlarge images with a shorter side first.
        augment: the random choices.
        clip: lowest and highest digital number, or None.
        mean, std: (C,) of the z-score.
    """

    size: int
    resize_mode: str
    augment: Augment
    clip: tuple[float, float] | None
    mean: np.ndarray
    std: np.ndarray

    def fitted(self, image: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """(H, W, C) to a view or a copy of side S, by a view's uniform numbers."""
        height, width = image.shape[:2]
        side = self.size
        if self.resize_mode == "random_resized_crop":
            low, high = (min(limit, height, width) for limit in self.augment.crop_sides or (self.size, self.size))
            side = min(low + int(draws[5] * (high - low + 1)), high)
        elif self.resize_mode == "resize" or min(height, width) < self.size:
            how = "resize" if self.resize_mode == "resize" else "enlarge"
            image = preprocess.resized(image[None], *preprocess.fitted_shape(height, width, self.size, how))[0]
            height, width = image.shape[:2]
        rooms = height - side, width - side
        if self.resize_mode in ("random_crop", "random_resized_crop"):
            top, left = (min(int(draw * (room + 1)), room) for draw, room in zip(draws, rooms))
        else:
            top, left = (room // 2 for room in rooms)
        image = image[top : top + side, left : left + side]
        return image if side == self.size else preprocess.resized(image[None], self.size, self.size)[0]

    def turned(self, image: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """A view of a square image, by a view's uniform numbers."""
        if self.augment.flips:
            image = image[:: -1 if draws[2] < 0.5 else 1, :: -1 if draws[3] < 0.5 else 1]
        return np.rot90(image, int(draws[4] * 4)) if self.augment.rot90 else image

    def __call__(self, values: np.ndarray, shapes: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prepares a batch.

        Args:
            values: (B,) bytes, the uint16 digital numbers of each image.
            shapes: (B, 3) height, width and bands of each.
            draws: (B, DRAWS) uniform numbers.

        Returns:
            (B, S, S, C) float32, and (B, S, S) bool: False where a band holds no data, or a pixel without any was mixed in.
        """
        out = np.empty((len(values), self.size, self.size, len(self.mean)), np.float32)
        valid = np.empty(out.shape[:3], bool)
        for i, (value, shape) in enumerate(zip(values, shapes)):
            image = np.frombuffer(value, np.uint16).reshape(shape)
            out[i] = self.turned(self.fitted(image, draws[i]), draws[i])
            if image.all():
                valid[i] = True
            else:
                holds = np.all(image != landsat.NODATA, axis=-1, keepdims=True)
                valid[i] = self.turned(self.fitted(holds, draws[i]), draws[i])[..., 0] > 0.999
        if self.clip is not None:
            np.clip(out, *self.clip, out=out)
        rows = out.reshape(len(values), self.size, -1)  # long rows: numpy is slow on a last axis of seven
        np.subtract(rows, np.tile(self.mean, self.size), out=rows)
        np.divide(rows, np.tile(self.std, self.size), out=rows)
        if self.augment.band_jitter:
            bands = len(self.mean)
            jitter = np.float32(self.augment.band_jitter * 12**0.5) * (draws[:, 7:].astype(np.float32) - np.float32(0.5))
            gain, offset = jitter[:, None, :bands], jitter[:, None, bands : 2 * bands] + jitter[:, None, -1:]
            rows *= np.tile(1 + gain, self.size)
            rows += np.tile(offset, self.size)
        if self.augment.coastal_dropout:
            chosen = draws[:, 6] < self.augment.coastal_dropout
            out[chosen, ..., _COASTAL] = out[chosen, ..., _BLUE]
        return out, valid

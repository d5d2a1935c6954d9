"""The images of a batch as the model takes them: cropped or resized, flipped and rotated, z-scored. Numpy, one pass an image.

It is several times faster than tf.data operations, which cost some ten microseconds each; numpy lets other threads run.
"""

import dataclasses

import numpy as np

from geomoe import landsat
from geomoe.data import preprocess

# Uniform numbers that a view of an image takes: row and column of the crop, two flips, the rotation, the crop's side, the
# coastal band, and for the jitter a gain and an offset a band and an offset of all.
DRAWS = 7 + 2 * len(landsat.BANDS) + 1
_COASTAL, _BLUE = landsat.BANDS.index("SR_B1"), landsat.BANDS.index("SR_B2")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random choices of training. All off by default.

    Attributes:
        flips: mirror left-right and up-down, each for half of the images.
        rot90: rotate by 0, 90, 180 or 270 degrees.
        metadata_dropout: probability with which each of week, hour, latitude and longitude goes missing, independently.
        random_metadata: probability with which an image has a week, hour, latitude and longitude drawn at random in place of
            its own. What it is given then is not to be guessed from its pixels, so that a model which has to know it must read
            it; of what is dropped there is nothing to know.
        coastal_dropout: probability with which an image is as of a sensor without the coastal band (Landsat 4 to 7): the
            z-scored blue band stands in its place, as where such images are embedded.
        band_jitter: standard deviation of a random gain around 1 and a random offset around 0 of each band, and of an offset
            common to all, drawn for each view and applied to z-scores: another haze, light, sensor or season.
        crop_sides: smallest and largest side, in pixels, of the squares that "random_resized_crop" cuts; no larger than the
            image. Each side is as likely as any other. () cuts squares of the model's size.
    """

    flips: bool = False
    rot90: bool = False
    metadata_dropout: float = 0.0
    random_metadata: float = 0.0
    coastal_dropout: float = 0.0
    band_jitter: float = 0.0
    crop_sides: tuple[int, int] | tuple[()] = ()

    def __post_init__(self) -> None:
        for name in ("metadata_dropout", "random_metadata", "coastal_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be in [0, 1]")
        if not 0 <= self.band_jitter < 1:
            raise ValueError(f"band_jitter = {self.band_jitter} must be in [0, 1)")
        object.__setattr__(self, "crop_sides", tuple(self.crop_sides))
        if self.crop_sides and not (len(self.crop_sides) == 2 and 1 <= self.crop_sides[0] <= self.crop_sides[1]):
            raise ValueError(f"crop_sides = {self.crop_sides} must be (smallest, largest) in pixels, or ()")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done to every image of a batch; fields as for `geomoe.data.LoadOptions`, `size` is its `img_size`."""

    size: int
    resize_mode: str
    statistics: landsat.Statistics
    augment: Augment = Augment()
    clip: tuple[float, float] | None = None

    def crop(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Bring (N, H, W, C) to side S, all the same way by a view's uniform numbers (DRAWS,)."""
        position, side = None, None
        if self.resize_mode in preprocess.RANDOM_RESIZE_MODES:
            position = (draws[0], draws[1])
        if self.resize_mode == "random_resized_crop":
            low, high = (min(limit, *images.shape[1:3]) for limit in self.augment.crop_sides or (self.size, self.size))
            side = min(low + int(draws[5] * (high - low + 1)), high)
        return preprocess.to_size(images, self.size, self.resize_mode, position, side)

    def flip_and_rotate(self, image: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Flip and rotate a square image (S, S, ...) by a view's uniform numbers (DRAWS,), where asked to; a view."""
        if self.augment.flips:
            image = image[:: -1 if draws[2] < 0.5 else 1, :: -1 if draws[3] < 0.5 else 1]
        return np.rot90(image, int(draws[4] * 4)) if self.augment.rot90 else image

    def __call__(self, values: np.ndarray, shapes: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prepare a batch: (B, S, S, C) float32; (B, S, S) bool, False where a band lacks data or such a pixel was mixed in.

        Args:
            values: (B,) bytes, the uint16 digital numbers of each image.
            shapes: (B, 3) height, width and bands of each.
            draws: (B, DRAWS) uniform numbers.
        """
        bands = len(self.statistics.mean)
        out = np.empty((len(values), self.size, self.size, bands), np.float32)
        valid = np.empty(out.shape[:3], bool)
        for i, (value, shape) in enumerate(zip(values, shapes)):
            image = np.frombuffer(value, np.uint16).reshape(1, *shape)
            out[i] = self.flip_and_rotate(self.crop(image, draws[i])[0], draws[i])
            if image.all():
                valid[i] = True
            else:
                pixels = self.crop(preprocess.has_data(image)[..., None], draws[i])[0, ..., 0]
                valid[i] = self.flip_and_rotate(pixels, draws[i]) > preprocess.WHOLE
        if self.clip is not None:
            np.clip(out, *self.clip, out=out)
        self.statistics.normalize(out, out=out)
        if self.augment.band_jitter:
            jitter = np.float32(self.augment.band_jitter * 12**0.5) * (draws[:, 7:].astype(np.float32) - np.float32(0.5))
            gain, offset = jitter[:, None, :bands], jitter[:, None, bands : 2 * bands] + jitter[:, None, -1:]
            rows = out.reshape(len(values), self.size, -1)  # long rows: numpy is slow on a last axis of seven
            rows *= np.tile(1 + gain, self.size)
            rows += np.tile(offset, self.size)
        if self.augment.coastal_dropout:
            chosen = draws[:, 6] < self.augment.coastal_dropout
            out[chosen, ..., _COASTAL] = out[chosen, ..., _BLUE]
        return out, valid

"""Scenes: a landscape is laid out, rendered on a day, and stored as digital numbers."""

import functools
from typing import Any, NamedTuple

import numpy as np

from geomoe import landsat, metadata
from geomoe.data.synthetic.spectra import CLASSES, ENDMEMBERS, HAZE, greenness, spectrum

SIZE = 44  # pixels a side
_MIN_FRACTION = 0.05  # of the valid pixels that a cover needs to be a label

# landscape -> the covers it draws from, with weights
_LANDSCAPES: dict[str, dict[str, float]] = {
    "farmland": {
        "winter crop": 3,
        "summer crop": 3,
        "grassland": 2,
        "broad-leaved forest": 0.7,
        "needle-leaved forest": 0.5,
        "town": 0.5,
    },
    "woodland": {"broad-leaved forest": 3, "needle-leaved forest": 3, "grassland": 1.2, "inland water": 0.5, "wetland": 0.4},
    "town": {"town": 4, "grassland": 1, "winter crop": 0.7, "summer crop": 0.7, "broad-leaved forest": 0.6, "bare ground": 0.5},
    "coast": {"sea": 4, "bare ground": 1, "wetland": 1, "grassland": 1, "town": 0.8, "needle-leaved forest": 0.6},
    "lake": {"inland water": 4, "needle-leaved forest": 1, "broad-leaved forest": 1, "wetland": 1, "grassland": 0.8},
    "dry land": {"bare ground": 4, "grassland": 1.5, "summer crop": 0.6, "town": 0.4},
    "marsh": {"wetland": 4, "inland water": 1.2, "grassland": 1.2, "broad-leaved forest": 0.5},
}
# standard deviation of the grain of a cover, relative to its reflectance
_TEXTURES = {
    "broad-leaved forest": 0.10,
    "needle-leaved forest": 0.13,
    "bare ground": 0.05,
    "wetland": 0.12,
    "town": 0.12,
    "sea": 0.06,
}
_SPLIT_IDS = {"train": 0, "val": 1, "test": 2, "pairs": 3}


class Scene(NamedTuple):
    """One synthetic patch."""

    image: np.ndarray  # (44, 44, 7) uint16 Collection 2 digital numbers, 0 without data
    cover: np.ndarray  # (44, 44) int8, index of the cover class of each pixel
    labels: list[int]  # sorted indices of the classes on at least 5 % of the valid pixels, the dominant one among them
    dominant: int  # index of the most frequent class
    latitude: float  # degrees
    longitude: float
    time: np.datetime64  # in seconds, UTC


@functools.lru_cache(maxsize=16)
def _spline(cells: int) -> np.ndarray:
    """(SIZE, cells + 3) cubic B-spline weights: smooth fields from coarse random grids."""
    x = np.linspace(0, cells, SIZE, endpoint=False)
    i, t = np.floor(x).astype(int), x % 1
    weights = np.zeros((SIZE, cells + 3))
    for k, w in enumerate(((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)):
        weights[np.arange(SIZE), i + k] = w
    return weights


def _field(rng: np.random.Generator, cells: int) -> np.ndarray:
    """A smooth random field with about `cells` bumps a side: (SIZE, SIZE), mean about 0 and standard deviation about 1."""
    basis = _spline(cells)
    return basis @ rng.standard_normal((cells + 3, cells + 3)) @ basis.T / 0.45


def sun_elevation(latitude: float, longitude: float, time: np.datetime64) -> float:
    """Compute the sine of the sun's elevation, from the declination (Cooper 1969) and the mean solar time."""
    declination = np.radians(23.45) * np.sin(2 * np.pi * (285 + _day(time)) / 365)
    lat, angle = np.radians(latitude), np.radians(15 * (_hour(time, longitude) - 12))
    return float(np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(angle))


def _parcels(rng: np.random.Generator) -> np.ndarray:
    """(SIZE, SIZE) int: index of the field parcel of each pixel; a jittered, sheared grid of parcels."""
    pitch = rng.uniform(6, 14)
    angle = rng.uniform(0, np.pi / 2)
    y, x = np.mgrid[:SIZE, :SIZE]
    u = (x * np.cos(angle) + y * np.sin(angle)) / pitch
    v = (y * np.cos(angle) - x * np.sin(angle)) / (pitch * rng.uniform(0.6, 1.6))
    row = np.floor(v + 20).astype(int)
    shift = rng.uniform(0, 1, 64)
    column = np.floor(u + 20 + shift[row % 64]).astype(int)
    return np.unique(row * 1000 + column, return_inverse=True)[1].reshape(SIZE, SIZE)


def _lay_out(ground: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Draw the ground, the same on every day: cover class and parcel of each pixel (SIZE, SIZE), latitude and longitude."""
    draw = ground.random
    latitude = float(draw() * 38 + 28) * (1 if draw() < 0.75 else -1)
    longitude = float(draw() * 300 - 150)
    pole, tropic = (abs(latitude) - 28) / 38, (66 - abs(latitude)) / 38
    odds = np.array([2.2, 1.4 + 0.8 * pole, 1.1, 1.2, 1.0, 0.5 + 1.0 * tropic, 0.7])
    landscape = list(_LANDSCAPES)[int(ground.choice(len(_LANDSCAPES), p=odds / odds.sum()))]
    weights = dict(_LANDSCAPES[landscape])
    for forest, near in (("needle-leaved forest", pole), ("broad-leaved forest", tropic)):
        if forest in weights:
            weights[forest] *= 0.4 + 1.2 * near
    covers = list(weights)
    count = min(len(covers), int(ground.integers(1, 5)))
    p = np.array([weights[c] for c in covers])
    chosen = [covers[i] for i in ground.choice(len(covers), count, replace=False, p=p / p.sum())]

    # The highest of the fields of the covers takes a pixel; parcels are decided at their first pixel.
    parcels = _parcels(ground)
    first = np.unique(parcels, return_index=True)[1]
    fields = []
    for cover in chosen:
        cells = {"sea": 1, "inland water": 2, "town": 3}.get(cover, int(ground.integers(2, 6)))
        field = _field(ground, cells) + 0.5 * np.log(weights[cover]) + ground.normal(0, 0.35)
        if cover in ("winter crop", "summer crop"):
            field = field.reshape(-1)[first][parcels] + ground.normal(0, 0.7, len(first))[parcels]
        fields.append(field)
    indices = np.array([CLASSES.index(cover) for cover in chosen], np.int8)
    return indices[np.argmax(fields, axis=0)], parcels, latitude, longitude


def _hour(time: np.datetime64, longitude: float) -> float:
    """Mean solar hour, not brought to 0 to 24."""
    return (time - time.astype("datetime64[D]")) / np.timedelta64(1, "h") + longitude / 15


def _day(time: np.datetime64) -> int:
    """Day of the year, from 0."""
    return int((time.astype("datetime64[D]") - time.astype("datetime64[Y]").astype("datetime64[D]")).astype(int))


def scene(
    seed: int, split: str, index: int, *, time: np.datetime64 | None = None, replace_cover: tuple[str, str] | None = None
) -> Scene:
    """Render patch `index` of a split; the same arguments give the same bytes.

    Args:
        seed, split, index: name the patch; `split` is "train", "val", "test" or "pairs".
        time: of the view; None draws one. The ground does not depend on it.
        replace_cover: two class names; regions of the first become the second, for change detection.
    """
    ground = np.random.default_rng([seed, _SPLIT_IDS[split], index, 0])
    cover, parcels, latitude, longitude = _lay_out(ground)
    if replace_cover is not None:
        cover[cover == CLASSES.index(replace_cover[0])] = CLASSES.index(replace_cover[1])
    if time is None:
        sky = np.random.default_rng([seed, _SPLIT_IDS[split], index, 1])
        day = np.datetime64("2017-01-01", "D") + int(sky.integers(0, 730))
        solar_hour = sky.uniform(9.0, 14.5)  # the sun is up
        minutes = int(round(((solar_hour - longitude / 15) % 24) * 60)) % 1440
        time = day.astype("datetime64[s]") + np.timedelta64(minutes, "m")
    else:
        time = time.astype("datetime64[s]")
        sky = np.random.default_rng([seed, _SPLIT_IDS[split], index, 1, int(time.astype(np.int64))])

    reflectance = _render(cover, parcels, sky, _day(time) / 7.0, latitude)
    elevation = max(sun_elevation(latitude, longitude, time), 0.12)
    relief = _field(ground, 4) * ground.uniform(0.0, 0.12)
    slope = np.gradient(relief)[1] * 6  # towards the morning sun in the east
    # Reflectance is corrected for the sun's height, not wholly: low suns leave shade and darker ground behind.
    east = np.clip(12 - _hour(time, longitude) % 24, -4, 4) / 4
    shading = (0.75 + 0.25 * elevation**0.5) * np.clip(1 + slope * east * (1 - elevation), 0.5, 1.6)
    reflectance *= shading[:, :, None]
    if sky.random() < 0.3:
        haze = sky.uniform(0.01, 0.07) * np.clip(1 + 0.5 * _field(sky, 2), 0, 2.5)
        reflectance += haze[:, :, None] * HAZE
    reflectance += sky.normal(0, 0.003, reflectance.shape) + sky.normal(0, 0.01, reflectance.shape) * reflectance
    image = landsat.reflectance_to_dn(reflectance)
    if sky.random() < 0.05:  # the slanted edge of a scene
        y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
        angle = sky.uniform(0, 2 * np.pi)
        image[x * np.cos(angle) + y * np.sin(angle) > sky.uniform(2, SIZE / 2)] = landsat.NODATA
    valid = image.any(axis=-1)
    share = np.bincount(cover[valid], minlength=len(CLASSES)) / max(valid.sum(), 1)
    dominant = int(np.argmax(share))
    return Scene(image, cover, [int(i) for i in np.flatnonzero(share >= _MIN_FRACTION)], dominant, latitude, longitude, time)


def _render(cover: np.ndarray, parcels: np.ndarray, sky: np.random.Generator, week: float, latitude: float) -> np.ndarray:
    """(SIZE, SIZE, 7) reflectance of a map of covers on one day, with the texture of each cover."""
    out = np.empty((SIZE, SIZE, len(landsat.BANDS)))
    grain = sky.standard_normal((SIZE, SIZE))
    for index in np.unique(cover):
        name, here = CLASSES[index], cover == index
        if name in ("winter crop", "summer crop", "grassland"):  # each parcel has its own state
            spectra = np.stack([spectrum(name, sky, week, latitude) for _ in range(parcels.max() + 1)])
            values, texture = spectra[parcels[here]], 0.03
        else:
            patches = np.stack([spectrum(name, sky, week, latitude) for _ in range(2)])
            mix = np.clip(0.5 + 0.35 * _field(sky, 3)[here], 0, 1)[:, None]
            values = mix * patches[0] + (1 - mix) * patches[1]
            texture = _TEXTURES.get(name, 0.02)
        if name == "town":  # roofs, streets and gardens, finer than a pixel
            roofs, gardens = sky.random((2, int(here.sum()))) ** 1.5
            gardens = (gardens * (0.2 + 0.5 * greenness("grassland", week, latitude)))[:, None]
            values = values + roofs[:, None] * (ENDMEMBERS["roof"] - values)
            values = values * (1 - gardens) + gardens * ENDMEMBERS["green leaf"]
        out[here] = values * (1 + texture * grain[here])[:, None]
    return out


def record(seed: int, split: str, index: int) -> dict[str, Any]:
    """Render a patch as a dataset record; its labels are the covers present, beside the dominant one."""
    fields = scene(seed, split, index)._asdict()
    del fields["cover"]
    return {**fields, "id": f"synthetic_{seed}_{split}_{index:06d}", "time": metadata.format_time(fields["time"])}


def change_pairs(seed: int, count: int, start: int = 0) -> dict[str, np.ndarray]:
    """Render scenes twice, one to two years apart, half of them with one cover replaced in between: for change detection.

    Season, sun, haze and noise differ between the two views of every scene; which of them change does not depend on any of it.

    Args:
        seed, start, count: scenes `start` to `start + count` of the endless list of this seed.

    Returns:
        before, after (N, 44, 44, 7) uint16 digital numbers; lat, lon (N,) degrees; time_before, time_after (N,) datetime64[s];
        changed (N,) bool: whether a cover of at least a fifth of the scene was replaced.
    """
    rows: list[tuple[Any, ...]] = []
    for index in range(start, start + count):
        rng = np.random.default_rng([seed, _SPLIT_IDS["pairs"], index, 2])
        first = scene(seed, "pairs", index)
        later = first.time + np.timedelta64(int(rng.integers(365, 731)), "D") + np.timedelta64(int(rng.integers(-60, 60)), "m")
        changed = bool(rng.random() < 0.5)
        replace = None
        if changed:
            share = np.bincount(first.cover.reshape(-1), minlength=len(CLASSES)) / first.cover.size
            old = int(rng.choice(np.flatnonzero(share >= 0.2)))
            new = int(rng.choice([i for i in range(len(CLASSES)) if share[i] == 0]))
            replace = (CLASSES[old], CLASSES[new])
        second = scene(seed, "pairs", index, time=later, replace_cover=replace)
        rows.append((first.image, second.image, first.latitude, first.longitude, first.time, later, changed))
    names = ("before", "after", "lat", "lon", "time_before", "time_after", "changed")
    return {name: np.array([row[i] for row in rows]) for i, name in enumerate(names)}

"""Procedural Landsat-like patches with labels, place and time: data for a first run, for tests, for timing.

A patch is a scene of 44 x 44 pixels of 30 m. A landscape (farmland, woodland, town, coast, lake, dry land, marsh) draws its
covers; parcels, noise fields and street grids lay them out; each cover mixes a few spectra by its state on that day at that
latitude; terrain is shaded by the sun of that hour; haze, sensor noise, and in some patches a slanted edge without data follow;
the result is stored as Collection 2 digital numbers.

Spectra: surface reflectance in the seven OLI bands of green and dry vegetation, needle and leaf canopies, soil, sand, roofs and
paving, turbid and clear water. They are rounded typical values that we chose to agree in level and shape (red edge, the dips of
leaf water, the rise of dry soil, the dark infrared of water) with the curves of the USGS Spectral Library Version 7 (Kokaly et
al. 2017, USGS Data Series 1035) and the ECOSTRESS spectral library (Meerdink et al. 2019, Remote Sensing of Environment 230);
they are not resampled from single samples of those libraries. Soil darkening with wetness follows the sense of Lobell and Asner
(2002), and season follows a double-logistic greenness curve in the manner of Beck et al. (2006).

What place and time can and cannot tell: winter and summer crops have the same spectra but green at other weeks, and deciduous
forest is bare in winter, so week and latitude help to read a patch. Which covers a patch holds is drawn at random, with only
a mild dependence on latitude (needle forest towards the poles, dry land towards the tropics), so they cannot replace looking.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from geomoe import landsat

SIZE = 44  # pixels a side
CLASSES = (
    "winter crop",
    "summer crop",
    "grassland",
    "broad-leaved forest",
    "needle-leaved forest",
    "town",
    "inland water",
    "sea",
    "bare ground",
    "wetland",
)
_MIN_FRACTION = 0.05  # of the valid pixels that a cover needs to be a label

#                     coastal  blue   green  red    NIR    SWIR1  SWIR2
_SPECTRA = {
    "green leaf": (0.030, 0.035, 0.075, 0.040, 0.460, 0.210, 0.095),
    "grass": (0.035, 0.045, 0.085, 0.065, 0.340, 0.250, 0.135),
    "dry grass": (0.060, 0.080, 0.120, 0.160, 0.270, 0.340, 0.250),
    "leaf canopy": (0.020, 0.025, 0.048, 0.030, 0.360, 0.165, 0.070),
    "bare branches": (0.040, 0.050, 0.070, 0.085, 0.170, 0.200, 0.140),
    "needle canopy": (0.015, 0.020, 0.036, 0.026, 0.220, 0.100, 0.045),
    "soil": (0.070, 0.085, 0.120, 0.160, 0.240, 0.310, 0.270),
    "sand": (0.170, 0.210, 0.290, 0.350, 0.420, 0.490, 0.460),
    "roof": (0.150, 0.165, 0.190, 0.220, 0.260, 0.290, 0.280),
    "paving": (0.090, 0.095, 0.110, 0.120, 0.150, 0.170, 0.160),
    "turbid water": (0.045, 0.055, 0.075, 0.055, 0.025, 0.010, 0.007),
    "clear water": (0.050, 0.045, 0.032, 0.016, 0.008, 0.005, 0.004),
}
_E = {name: np.array(values) for name, values in _SPECTRA.items()}
_HAZE = np.array([1.0, 0.85, 0.6, 0.45, 0.22, 0.08, 0.04])  # path radiance by band, falling with wavelength

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
_SPLIT_IDS = {"train": 0, "val": 1, "test": 2, "pairs": 3}


class Scene(NamedTuple):
    """One synthetic patch.

    Attributes:
        image: (44, 44, 7) uint16 Collection 2 digital numbers, 0 without data.
        cover: (44, 44) int8, index of the cover class of each pixel.
        labels: sorted indices of the classes on at least 5 % of the valid pixels, the dominant one always among them.
        dominant: index of the most frequent class.
        latitude, longitude: degrees.
        time: datetime64[s], UTC.
    """

    image: np.ndarray
    cover: np.ndarray
    labels: list[int]
    dominant: int
    latitude: float
    longitude: float
    time: np.datetime64


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
    """A smooth random field with about `cells` bumps a side: (SIZE, SIZE), mean about 0 and deviation about 1."""
    basis = _spline(cells)
    return basis @ rng.standard_normal((cells + 3, cells + 3)) @ basis.T / 0.45


def _logistic(x: float) -> float:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))


def _season(week: float, latitude: float) -> float:
    """Week of the local year, 0 to 52, as the northern mid-latitudes count it."""
    return (week + (26 if latitude < 0 else 0)) % 52


def _green(week: float, start: float, end: float, slope: float = 0.9) -> float:
    """Double-logistic greenness in [0, 1]: greening about week `start`, fading about week `end`."""
    return _logistic(slope * (week - start)) * _logistic(slope * (end - week))


def greenness(cover: str, week: float, latitude: float) -> float:
    """Fraction of green canopy of a cover at a local week and a latitude; spring comes later towards the poles."""
    week = _season(week, latitude)
    late = max(abs(latitude) - 45.0, -20.0) * 0.18  # weeks
    if cover == "winter crop":
        return max(_green(week, 11 + late, 27 + late), 0.35 * _green(week, 43, 60), 0.35 * _green(week, -8, 14))
    if cover == "summer crop":
        return _green(week, 24 + late, 37 + 0.3 * late)
    if cover == "grassland":
        return 0.25 + 0.65 * _green(week, 13 + late, 42 - 0.5 * late, 0.5)
    if cover == "broad-leaved forest":
        return _green(week, 16 + late, 43 - 0.6 * late)
    return 0.5


def sun_elevation(latitude: float, longitude: float, time: np.datetime64) -> float:
    """Sine of the sun's elevation, from the declination (Cooper 1969) and the mean solar time."""
    day = (time.astype("datetime64[D]") - time.astype("datetime64[Y]").astype("datetime64[D]")).astype(int) + 1
    hour = (time - time.astype("datetime64[D]")) / np.timedelta64(1, "h") + longitude / 15
    declination = np.radians(23.45) * np.sin(2 * np.pi * (284 + day) / 365)
    lat, angle = np.radians(latitude), np.radians(15 * (hour - 12))
    return float(np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(angle))


def _spectrum(cover: str, rng: np.random.Generator, week: float, latitude: float) -> np.ndarray:
    """(7,) reflectance of one parcel or region of a cover on that day."""
    jitter = rng.normal(0, 0.08)
    green = float(np.clip(greenness(cover, week, latitude) + jitter, 0, 1))
    wet = rng.uniform(0.6, 1.1)  # wet soil is darker
    if cover in ("winter crop", "summer crop"):
        ground = wet * _E["soil"] if rng.random() < 0.7 else 0.5 * wet * _E["soil"] + 0.5 * _E["dry grass"]
        return green * _E["green leaf"] + (1 - green) * ground
    if cover == "grassland":
        return green * _E["grass"] + (1 - green) * (0.75 * _E["dry grass"] + 0.25 * wet * _E["soil"])
    if cover == "broad-leaved forest":
        return green * _E["leaf canopy"] + (1 - green) * _E["bare branches"]
    if cover == "needle-leaved forest":
        return _E["needle canopy"] * rng.uniform(0.85, 1.2)
    if cover == "town":
        return _E["paving"]
    if cover == "inland water":
        turbid = rng.uniform(0.2, 1.0)
        return turbid * _E["turbid water"] + (1 - turbid) * _E["clear water"]
    if cover == "sea":
        turbid = rng.uniform(0.0, 0.25)
        return turbid * _E["turbid water"] + (1 - turbid) * _E["clear water"]
    if cover == "bare ground":
        sandy = rng.uniform(0.0, 1.0)
        return sandy * _E["sand"] + (1 - sandy) * wet * _E["soil"]
    reeds = greenness("grassland", week, latitude)  # wetland
    return 0.45 * _E["turbid water"] + 0.55 * (reeds * _E["grass"] + (1 - reeds) * _E["dry grass"])


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


def scene(
    seed: int,
    split: str,
    index: int,
    *,
    time: np.datetime64 | None = None,
    replace_cover: tuple[str, str] | None = None,
) -> Scene:
    """Makes patch `index` of a split; the same arguments give the same bytes.

    Args:
        seed, split, index: name the patch; `split` is "train", "val", "test" or "pairs".
        time: seen at this time in place of its own (the place and its covers stay).
        replace_cover: two class names; regions of the first become the second, for change detection.
    """
    ground = np.random.default_rng([seed, _SPLIT_IDS[split], index, 0])
    draw = ground.random
    latitude = float(draw() * 38 + 28) * (1 if draw() < 0.75 else -1)
    longitude = float(draw() * 300 - 150)
    pole, tropic = (abs(latitude) - 28) / 38, (66 - abs(latitude)) / 38
    names = list(_LANDSCAPES)
    odds = np.array([2.2, 1.4 + 0.8 * pole, 1.1, 1.2, 1.0, 0.5 + 1.0 * tropic, 0.7])
    landscape = names[int(ground.choice(len(names), p=odds / odds.sum()))]
    weights = dict(_LANDSCAPES[landscape])
    if "needle-leaved forest" in weights:
        weights["needle-leaved forest"] *= 0.4 + 1.2 * pole
    if "broad-leaved forest" in weights:
        weights["broad-leaved forest"] *= 0.4 + 1.2 * tropic
    covers = list(weights)
    count = min(len(covers), int(ground.integers(1, 5)))
    p = np.array([weights[c] for c in covers])
    chosen = [covers[i] for i in ground.choice(len(covers), count, replace=False, p=p / p.sum())]

    # Lay the covers out: the highest of their fields takes a pixel; parcels are decided at their first pixel.
    parcels = _parcels(ground)
    first = np.unique(parcels, return_index=True)[1]
    fields = []
    for cover in chosen:
        cells = {"sea": 1, "inland water": 2, "town": 3}.get(cover, int(ground.integers(2, 6)))
        field = _field(ground, cells) + 0.5 * np.log(weights[cover]) + ground.normal(0, 0.35)
        if cover in ("winter crop", "summer crop"):
            field = field.reshape(-1)[first][parcels] + ground.normal(0, 0.7, len(first))[parcels]
        fields.append(field)
    cover = np.array([CLASSES.index(c) for c in chosen], np.int8)[np.argmax(fields, axis=0)]
    if replace_cover is not None:
        cover[cover == CLASSES.index(replace_cover[0])] = CLASSES.index(replace_cover[1])

    sky = np.random.default_rng([seed, _SPLIT_IDS[split], index, 1])
    if time is None:
        day = np.datetime64("2017-01-01", "D") + int(sky.integers(0, 730))
        solar_hour = sky.uniform(9.0, 14.5)
        minutes = int(round(((solar_hour - longitude / 15) % 24) * 60)) % 1440
        time = day.astype("datetime64[s]") + np.timedelta64(minutes, "m")
    else:
        sky = np.random.default_rng([seed, _SPLIT_IDS[split], index, 1, int(time.astype("datetime64[s]").astype(np.int64))])
        time = time.astype("datetime64[s]")
    week = ((time.astype("datetime64[D]") - time.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)) / 7.0

    reflectance = _render(cover, parcels, sky, week, latitude)
    elevation = max(sun_elevation(latitude, longitude, time), 0.12)
    relief = _field(ground, 4) * ground.uniform(0.0, 0.12)
    slope = np.gradient(relief)[1] * 6  # towards the morning sun in the east
    hour = (time - time.astype("datetime64[D]")) / np.timedelta64(1, "h") + longitude / 15
    # Reflectance is corrected for the sun's height, not wholly: low suns leave shade and darker ground behind.
    east = np.clip(12 - hour % 24, -4, 4) / 4
    shading = (0.75 + 0.25 * elevation**0.5) * np.clip(1 + slope * east * (1 - elevation), 0.5, 1.6)
    reflectance *= shading[:, :, None]
    if sky.random() < 0.3:
        haze = sky.uniform(0.01, 0.07) * np.clip(1 + 0.5 * _field(sky, 2), 0, 2.5)
        reflectance += haze[:, :, None] * _HAZE
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
            spectra = np.stack([_spectrum(name, sky, week, latitude) for _ in range(parcels.max() + 1)])
            values, texture = spectra[parcels[here]], 0.03
        else:
            patches = np.stack([_spectrum(name, sky, week, latitude) for _ in range(2)])
            mix = np.clip(0.5 + 0.35 * _field(sky, 3)[here], 0, 1)[:, None]
            values = mix * patches[0] + (1 - mix) * patches[1]
            texture = {"broad-leaved forest": 0.10, "needle-leaved forest": 0.13, "bare ground": 0.05, "wetland": 0.12}.get(
                name, 0.02
            )
        if name == "town":  # roofs, streets and gardens, finer than a pixel
            roofs, gardens = sky.random((2, int(here.sum()))) ** 1.5
            gardens = (gardens * (0.2 + 0.5 * greenness("grassland", week, latitude)))[:, None]
            values = values + roofs[:, None] * (_E["roof"] - values)
            values = values * (1 - gardens) + gardens * _E["green leaf"]
            texture = 0.12
        if name == "sea":
            texture = 0.06
        out[here] = values * (1 + texture * grain[here])[:, None]
    return out


def record(seed: int, split: str, index: int) -> dict[str, Any]:
    """A patch as a dataset record; its labels are the covers present."""
    made = scene(seed, split, index)
    return {
        "id": f"synthetic_{seed}_{split}_{index:06d}",
        "image": made.image,
        "latitude": made.latitude,
        "longitude": made.longitude,
        "time": str(made.time),
        "labels": made.labels,
        "dominant": made.dominant,
    }


def change_pairs(seed: int, count: int, start: int = 0) -> dict[str, np.ndarray]:
    """Places seen twice, one to two years apart, half of them with one cover replaced in between: for change detection.

    Season, sun, haze and noise differ between the two views of every place; which places change does not depend on any of it.

    Args:
        seed, start, count: places `start` to `start + count` of the endless list of this seed.

    Returns:
        before, after (N, 44, 44, 7) uint16 digital numbers; lat, lon (N,) degrees; time_before, time_after (N,) datetime64[s];
        changed (N,) bool: whether a cover of at least a fifth of the place was replaced.
    """
    columns: dict[str, list[Any]] = {
        name: [] for name in ("before", "after", "lat", "lon", "time_before", "time_after", "changed")
    }
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
        values = (first.image, second.image, first.latitude, first.longitude, first.time, later, changed)
        for column, value in zip(columns.values(), values):
            column.append(value)
    return {name: np.array(column) for name, column in columns.items()}

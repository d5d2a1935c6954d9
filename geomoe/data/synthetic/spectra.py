"""Spectra of the covers: a few endmembers, mixed by the state of a cover on a day at a latitude."""

import numpy as np

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
ENDMEMBERS = {name: np.array(values) for name, values in _SPECTRA.items()}
HAZE = np.array([1.0, 0.85, 0.6, 0.45, 0.22, 0.08, 0.04])  # path radiance by band, falling with wavelength


def _green(week: float, start: float, end: float, slope: float = 0.9) -> float:
    """Double-logistic greenness in [0, 1]: greening about week `start`, fading about week `end`."""
    logistic = lambda x: 1 / (1 + np.exp(-np.clip(x, -50, 50)))
    return logistic(slope * (week - start)) * logistic(slope * (end - week))


def greenness(cover: str, week: float, latitude: float) -> float:
    """Compute the green fraction of a cover's canopy at a local week and a latitude; spring comes later towards the poles."""
    week = (week + (26 if latitude < 0 else 0)) % 52  # of the local year, as the northern mid-latitudes count it
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


def spectrum(cover: str, rng: np.random.Generator, week: float, latitude: float) -> np.ndarray:
    """Draw the (7,) reflectance of one parcel or region of a cover on that day."""
    jitter = rng.normal(0, 0.08)
    green = float(np.clip(greenness(cover, week, latitude) + jitter, 0, 1))
    wet = rng.uniform(0.6, 1.1)  # wet soil is darker
    if cover in ("winter crop", "summer crop"):
        stubble = 0.5 * wet * ENDMEMBERS["soil"] + 0.5 * ENDMEMBERS["dry grass"]
        ground = wet * ENDMEMBERS["soil"] if rng.random() < 0.7 else stubble
        return green * ENDMEMBERS["green leaf"] + (1 - green) * ground
    if cover == "grassland":
        return green * ENDMEMBERS["grass"] + (1 - green) * (0.75 * ENDMEMBERS["dry grass"] + 0.25 * wet * ENDMEMBERS["soil"])
    if cover == "broad-leaved forest":
        return green * ENDMEMBERS["leaf canopy"] + (1 - green) * ENDMEMBERS["bare branches"]
    if cover == "needle-leaved forest":
        return ENDMEMBERS["needle canopy"] * rng.uniform(0.85, 1.2)
    if cover == "town":
        return ENDMEMBERS["paving"]
    if cover in ("inland water", "sea"):
        turbid = rng.uniform(0.2, 1.0) if cover == "inland water" else rng.uniform(0.0, 0.25)
        return turbid * ENDMEMBERS["turbid water"] + (1 - turbid) * ENDMEMBERS["clear water"]
    if cover == "bare ground":
        sandy = rng.uniform(0.0, 1.0)
        return sandy * ENDMEMBERS["sand"] + (1 - sandy) * wet * ENDMEMBERS["soil"]
    reeds = greenness("grassland", week, latitude)  # wetland
    return 0.45 * ENDMEMBERS["turbid water"] + 0.55 * (reeds * ENDMEMBERS["grass"] + (1 - reeds) * ENDMEMBERS["dry grass"])

"""Outlines on the globe as polygons in longitude and latitude, right across 180 degrees and over a pole (RFC 7946).

A ring is (M, 2) degrees, longitude and latitude, closed: its last point is its first. Between two points it goes the short way.
"""

import struct
from collections.abc import Sequence

import numpy as np

BOUNDS = ("xmin", "ymin", "xmax", "ymax")  # west, south, east, north


def polygons(ring: np.ndarray) -> list[np.ndarray]:
    """Cut a ring at 180 degrees: one polygon's counterclockwise outer ring, or two where it crosses.

    A ring around a pole becomes a polygon from -180 to 180 degrees that goes up to the pole.
    """
    ring = _without_pole(np.asarray(ring, float))
    steps = (np.diff(ring[:, 0]) + 180) % 360 - 180
    continuous = ring[0, 0] + np.concatenate([[0.0], np.cumsum(steps)])
    if abs(continuous[-1] - continuous[0]) > 180:
        return [_counterclockwise(_around_pole(ring))]
    lon = ring[:, 0] + 360 * np.round((continuous - ring[:, 0]) / 360)
    lon -= 360 * np.round((lon.min() + lon.max()) / 720)  # so that its middle is between -180 and 180
    path = np.stack([lon, ring[:, 1]], axis=1)
    if lon.max() > 180:
        parts = [_clip(path, 180, 1), _clip(path, 180, -1) - [360, 0]]
    elif lon.min() < -180:
        parts = [_clip(path, -180, 1) + [360, 0], _clip(path, -180, -1)]
    else:
        parts = [path]
    return [_counterclockwise(part) for part in parts]


def _without_pole(ring: np.ndarray) -> np.ndarray:
    """Points at a pole have no longitude: the ring goes there, and comes back, by the longitudes of their neighbours."""
    points = ring[:-1]
    at_pole = np.abs(points[:, 1]) > 90 - 1e-9
    if not at_pole.any() or at_pole.all():
        return ring
    out = []
    for i, point in enumerate(points):
        ways = [points[i - 1][0], points[(i + 1) % len(points)][0]] if at_pole[i] else [point[0]]
        out += [[lon, point[1]] for lon in ways]
    return np.array([*out, out[0]])


def _around_pole(ring: np.ndarray) -> np.ndarray:
    lon, lat = (ring[:-1, 0] + 180) % 360 - 180, ring[:-1, 1]
    order = np.argsort(lon)
    pole = 90.0 if lat.mean() > 0 else -90.0
    edge = np.interp(180, lon[order], lat[order], period=360)
    inner = np.stack([lon[order], lat[order]], axis=1)
    return np.concatenate([[[-180, edge]], inner, [[180, edge], [180, pole], [-180, pole], [-180, edge]]])


def _clip(path: np.ndarray, limit: float, side: int) -> np.ndarray:
    """The part of a closed path west (side 1) or east (-1) of a meridian, closed (Sutherland and Hodgman, 1974)."""
    out = []
    for a, b in zip(path[:-1], path[1:]):
        inside_a, inside_b = side * (limit - a[0]) >= 0, side * (limit - b[0]) >= 0
        if inside_a:
            out.append(a)
        if inside_a != inside_b:
            share = (limit - a[0]) / (b[0] - a[0])
            out.append(np.array([limit, a[1] + share * (b[1] - a[1])]))
    return np.array([*out, out[0]])


def _counterclockwise(ring: np.ndarray) -> np.ndarray:
    x, y = ring[:, 0] - ring[0, 0], ring[:, 1] - ring[0, 1]
    return ring[::-1] if np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) < 0 else ring


def bounds(parts: Sequence[np.ndarray]) -> np.ndarray:
    """West, south, east, north of what `polygons` gives; west is greater than east where it crosses 180 degrees."""
    south, north = min(part[:, 1].min() for part in parts), max(part[:, 1].max() for part in parts)
    return np.array([parts[0][:, 0].min(), south, parts[-1][:, 0].max(), north])


def join_bounds(rows: np.ndarray) -> np.ndarray:
    """Join (N, 4) bounds to one; west is greater than east where one of them crosses 180 degrees."""
    west, south, east, north = rows.T
    if not (west > east).any():
        return np.array([west.min(), south.min(), east.max(), north.max()])
    if (east - west >= 360).any():
        return np.array([-180, south.min(), 180, north.max()])
    first = np.where(west < 0, west + 360, west).min()  # eastwards from Greenwich
    last = np.where(east <= 0, east + 360, east).max()
    if ((west < 0) & (east > 0)).any():  # there is one at Greenwich as well
        return np.array([-180, south.min(), 180, north.max()])
    return np.array([first, south.min(), last - 360, north.max()])


def to_wkb(parts: Sequence[np.ndarray]) -> bytes:
    """A polygon, or several as a MultiPolygon, in well-known binary."""
    each = [struct.pack(f"<BIII{part.size}d", 1, 3, 1, len(part), *part.reshape(-1)) for part in parts]
    return each[0] if len(each) == 1 else struct.pack("<BII", 1, 6, len(each)) + b"".join(each)


def to_geojson(parts: Sequence[np.ndarray]) -> dict[str, object]:
    """The same as GeoJSON."""
    rings = [part.tolist() for part in parts]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings}
    return {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}

"""Places that look like another: exact nearest neighbours by cosine in files of embeddings.

Axes: N rows of the file that are embedded, D width.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from geomoe.checks import check_count
from geomoe.embeddings.files import check_alike, read
from geomoe.embeddings.results import RESULTS, is_catalogue, read_results
from geomoe.files import atomic_open, atomic_path

_EARTH_KM = 6371.0  # mean radius
_ROWS = 65536  # normalised at once


@dataclasses.dataclass(frozen=True)
class Hits:
    """Rows of an index, the most similar first."""

    query: int  # the row that they are like
    rows: np.ndarray  # (K,)
    cosine: np.ndarray  # (K,) float32
    kilometres: np.ndarray  # (K,) from the query


class SearchIndex:
    """The embeddings of files (as `geomoe.embeddings.read` takes them) in memory, to be searched.

    Rows that are not embedded, or whose location is not known, are left out.

    Args:
        paths: a file, or a folder of `geomoe catalogue`, whose files are all taken; or several of them.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: no row is left, a folder has no scene that was embedded, or the files are not of one encoder and pool.
    """

    def __init__(self, paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> None:
        given = [os.fspath(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
        files = {os.path.realpath(file): file for path in given for file in _files(path)}
        tables = [_located(file) for file in files.values()]
        _check_alike(tables)
        if not tables:
            raise ValueError("no file of embeddings is given")
        self.paths, self.facts = ", ".join(given), tables[0]["facts"]
        tables = [table for table in tables if len(table["id"])]
        if not tables:
            raise ValueError(f"{self.paths} holds no embedding with a location")
        columns = ("id", "latitude", "longitude", "time", "vector")
        self.id, self.latitude, self.longitude, self.time, self._vectors = (
            np.concatenate([table[key] for table in tables]) if len(tables) > 1 else tables[0][key] for key in columns
        )
        self._files = [table["path"] for table in tables]
        self._first_rows = np.cumsum([0] + [len(table["id"]) for table in tables[:-1]])
        for start in range(0, len(self._vectors), _ROWS):  # to length 1 each
            some = self._vectors[start : start + _ROWS]
            some /= np.maximum(np.linalg.norm(some, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    def __len__(self) -> int:
        return len(self._vectors)

    def file_of(self, row: int) -> str:
        """The file that a row is from; ValueError where there is no such row."""
        return self._files[np.searchsorted(self._first_rows, self._checked(row), side="right") - 1]

    def _checked(self, row: int) -> int:
        if not isinstance(row, int | np.integer) or not 0 <= row < len(self):
            raise ValueError(f"row = {row} is not one of the {len(self)} rows, a whole number from 0 to {len(self) - 1}")
        return int(row)

    def nearest_row(self, lat: float, lon: float, within_km: float = 5.0) -> int:
        """Find the row that is nearest to a location in degrees; ValueError where none is within `within_km`."""
        if not (-90 <= lat <= 90 and -360 <= lon <= 360):
            raise ValueError(f"latitude {lat}, longitude {lon}: degrees from -90 to 90 and from -180 to 180 (or 0 to 360)")
        distance = _kilometres(lat, lon, self.latitude, self.longitude)
        row = int(distance.argmin())
        if not within_km >= 0:
            raise ValueError(f"within_km = {within_km} must be 0 or more")
        if distance[row] > within_km:
            there = f"the nearest, {self.id[row]}, is {distance[row]:.1f} km away (within_km = {within_km:g})"
            raise ValueError(f"{self.paths} has no embedding at {lat}, {lon}: {there}")
        return row

    def like(self, row: int, k: int = 20, beyond_km: float = 0.0) -> Hits:
        """Find the `k` rows whose embeddings have the largest cosine with that of a row, by comparing all.

        Args:
            row: from 0 to one below `len` of this, or of `nearest_row`. It is no hit of its own.
            k: fewer where there are not as many.
            beyond_km: rows that are nearer than this are no hits: windows that overlap look alike.

        Raises:
            ValueError: there is no such row, k is no whole number above 0, or beyond_km is below 0 or NaN.
        """
        row = self._checked(row)
        check_count("k", k, 1)
        if not beyond_km >= 0:
            raise ValueError(f"beyond_km = {beyond_km} must be 0 or more")
        cosine = self._vectors @ self._vectors[row]
        distance = _kilometres(self.latitude[row], self.longitude[row], self.latitude, self.longitude)
        cosine[distance < beyond_km] = -np.inf
        cosine[row] = -np.inf
        k = min(k, int(np.isfinite(cosine).sum()))
        best = np.argpartition(-cosine, k - 1)[:k] if 0 < k < len(cosine) else np.arange(len(cosine))[:k]
        best = best[np.argsort(-cosine[best], kind="stable")]
        return Hits(row, best, cosine[best], distance[best])

    def write_geojson(self, hits: Hits, path: str | os.PathLike[str]) -> None:
        """Write the query (rank 0) and its hits as points, with rank, id, cosine, kilometres from the query,
        time and file.
        """
        features = [self._feature(hits.query, 0, 1.0, 0.0)]
        for rank, (row, cosine, distance) in enumerate(zip(hits.rows, hits.cosine, hits.kilometres), start=1):
            features.append(self._feature(row, rank, float(cosine), float(distance)))
        with atomic_open(path) as file:
            json.dump({"type": "FeatureCollection", "features": features}, file, indent=1, allow_nan=False)

    def _feature(self, row: int, rank: int, cosine: float, distance: float) -> dict[str, Any]:
        time = None if np.isnat(self.time[row]) else f"{self.time[row].astype('datetime64[s]')}Z"
        properties = {"rank": rank, "id": str(self.id[row]), "cosine": round(cosine, 6), "kilometres": round(distance, 3)}
        point = [float(self.longitude[row]), float(self.latitude[row])]
        geometry = {"type": "Point", "coordinates": point}
        return {"type": "Feature", "geometry": geometry, "properties": {**properties, "time": time, "file": self.file_of(row)}}

    def draw(self, hits: Hits, path: str | os.PathLike[str]) -> None:
        """Draw a map of all rows, by their cosine with the query, and of the hits, to a `.png` file; needs matplotlib."""
        from matplotlib.figure import Figure

        step = max(len(self) // 200_000, 1)
        cosine = self._vectors[::step] @ self._vectors[hits.query]
        figure = Figure(figsize=(8, 7), layout="constrained")
        axes = figure.subplots()
        size = np.clip(120_000 / len(cosine), 0.5, 60)
        points = axes.scatter(self.longitude[::step], self.latitude[::step], s=size, c=cosine, marker="s", linewidths=0)
        figure.colorbar(points, label="cosine with the query")
        axes.scatter(
            self.longitude[hits.rows], self.latitude[hits.rows], s=60, facecolors="none", edgecolors="red", label="hits"
        )
        axes.scatter(self.longitude[hits.query], self.latitude[hits.query], s=120, marker="*", color="red", label="query")
        axes.set(xlabel="longitude", ylabel="latitude")
        axes.set_aspect(1 / max(np.cos(np.radians(float(self.latitude.mean()))), 0.1))
        axes.legend()
        with atomic_path(path) as partial:
            figure.savefig(partial, format="png", dpi=120)


def _files(path: str) -> list[str]:
    """The files of embeddings that a path stands for."""
    if not is_catalogue(path):
        return [path]
    there = [result for result in read_results(path) if result.output]
    files = [result.output for result in there if not result.error] or [result.output for result in there]
    if not files:
        raise ValueError(f"{path} holds no embeddings: every scene of its {RESULTS} failed")
    return files


def _located(path: str) -> dict[str, Any]:
    """The rows of a file that are embedded and whose location is known."""
    table = read(path)
    rows = table["embedded"] & np.isfinite(table["latitude"]) & np.isfinite(table["longitude"])
    columns = {key: table[key][rows] for key in ("id", "latitude", "longitude", "time", "vector")}
    return columns | {"facts": table["facts"], "path": path}


def _check_alike(tables: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError where the vectors of two files are not to be compared."""
    why = "vectors of one encoder and one pool alone can be compared; embed them alike"
    files = [(table["path"], table["facts"]) for table in tables]
    for other in files[1:]:
        check_alike(files[0], other, ("encoder_sha256", "pool"), why)


def _kilometres(lat: float, lon: float, lats: np.ndarray, lons: np.ndarray) -> np.ndarray:
    """Great-circle distances by the haversine formula."""
    a, b = np.radians(lat), np.radians(lats)
    half = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lons - lon) / 2) ** 2
    return 2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(half, 0, 1)))

"""Find places that look like another in files of embeddings.

    python -m geomoe.cli.search --embeddings map.tif --like 30.73,-87.40 --output hits.geojson --picture hits.png
    python -m geomoe.cli.search --embeddings FOLDER_OF_A_CATALOGUE --like 30.73,-87.40 --output hits.geojson

All embeddings are compared, by cosine. Windows that overlap the query look like it: --beyond_km leaves them out.
"""

import argparse
import sys
from collections.abc import Sequence

from geomoe.cli.setup import clear_errors, program


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("search"), description=__doc__.splitlines()[0])
    of = ".parquet, .npz, .tif or .zarr files of geomoe.cli.embed, or folders of geomoe.cli.catalogue"
    parser.add_argument("--embeddings", required=True, nargs="+", help=of)
    parser.add_argument("--like", required=True, help="LAT,LON of the query in degrees")
    parser.add_argument("-k", type=int, default=20, help="number of hits (default: 20)")
    parser.add_argument("--within_km", type=float, default=5.0, help="how far an embedding may be from LAT,LON (default: 5)")
    parser.add_argument("--beyond_km", type=float, default=0.0, help="hits are at least as far from the query (default: 0)")
    parser.add_argument("--output", required=True, help="GeoJSON file of the query, rank 0, and the hits")
    parser.add_argument("--picture", help="a .png file: the map of cosines and the hits")
    args = parser.parse_args(_joined(sys.argv[1:] if argv is None else argv))
    try:
        lat, lon = map(float, args.like.split(","))
    except ValueError:
        raise ValueError(f"--like {args.like}: give latitude and longitude in degrees, as 47.38,8.54") from None

    from geomoe.embeddings import SearchIndex

    if args.picture:
        import matplotlib  # noqa: F401 - says now that it is missing
    index = SearchIndex(args.embeddings)
    hits = index.like(index.nearest_row(lat, lon, args.within_km), args.k, args.beyond_km)
    index.write_geojson(hits, args.output)
    if args.picture:
        index.draw(hits, args.picture)
    for rank, (row, cosine, distance) in enumerate(zip(hits.rows, hits.cosine, hits.kilometres), start=1):
        location = f"{index.latitude[row]:9.4f} {index.longitude[row]:10.4f}"
        print(f"{rank:4d}  {cosine:.4f}  {location}  {distance:8.1f} km  {index.id[row]}")
    print(f"{args.output}: {len(hits.rows)} of {len(index):,} embeddings, like {index.id[hits.query]}")


def _joined(argv: Sequence[str]) -> list[str]:
    """Join --like and its value, which argparse takes for an option where it begins with a minus."""
    out = list[str]()
    for text in argv:
        if out and out[-1] == "--like":
            out[-1] = f"--like={text}"
        else:
            out.append(text)
    return out


if __name__ == "__main__":
    sys.exit(clear_errors(main))

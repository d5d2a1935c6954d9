"""Places of a scene that look like one of them: a map of tokens, and its nearest neighbours.

    python examples/similar_places.py --checkpoint runs/demo --scene SCENE --like 30.73,-87.40 --work OUT

OUT gets map.tif (a Cloud Optimized GeoTIFF of int8 embeddings, 120 m, with a STAC item beside it) and hits.geojson.
"""

import argparse
import pathlib

import geomoe
from geomoe import embeddings


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--scene", required=True)
    parser.add_argument("--like", required=True, help="LAT,LON in degrees")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)

    # 1. The scene's tokens, one a patch. What overlaps them is blended.
    output = args.work / "map.tif"
    if not output.exists():
        encoder = geomoe.load(args.checkpoint)
        embeddings.embed_scene(encoder, embeddings.Sink(output, dtype="int8"), args.scene, resolution="token")

    # 2. The patches most like the one at the query, at least a window (1.2 km) away.
    index = embeddings.SearchIndex(output)
    lat, lon = map(float, args.like.split(","))
    hits = index.like(index.nearest_row(lat, lon), k=10, beyond_km=1.2)
    index.write_geojson(hits, args.work / "hits.geojson")
    for row, cosine, distance in zip(hits.rows, hits.cosine, hits.kilometres):
        print(f"{index.latitude[row]:.4f} {index.longitude[row]:.4f}  cosine {cosine:.3f}, {distance:.1f} km away")


if __name__ == "__main__":
    main()

"""The options that commands share: of the images, of the encoder, and of a scene's windows."""

import argparse
import json
import os
from typing import Any

from geomoe.data.preprocess import InputSpec
from geomoe.landsat import COMPUTED, Statistics

OF_SCENES = ("resolution", "stride", "min_valid", "max_cloud", "mask")  # None where they were not given


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add what is said of the numbers and bands of images."""
    from geomoe import landsat

    parser.add_argument("--unit", choices=landsat.UNITS, help="of the numbers (default: by the scene, or collection2_dn)")
    parser.add_argument("--sensor", choices=landsat.SENSORS, help="of the numbers (default: by scene or file, or landsat8)")
    parser.add_argument("--bands", help="names of the bands of the files, joined by commas: blue,green,red")
    parser.add_argument("--sun_elevation", type=float, help="degrees, for --unit level1_dn (default: the scene's own)")
    parser.add_argument("--uint8_range", type=float, nargs=2, help="reflectances that 1 and 255 stand for (default: 0 1)")


def add_options(parser: argparse.ArgumentParser, max_cloud: str = "1") -> None:
    """Add the options of the embedding commands; `max_cloud` says its default, which is the library's."""
    from geomoe import landsat
    from geomoe.data.preprocess import NODATA_MODES
    from geomoe.embeddings.rasters import INTERLEAVES, RESOLUTIONS
    from geomoe.embeddings.vectors import DTYPES

    text = "a run directory, or a file, name or address of weights (default: geomoe-s, which comes with the package)"
    parser.add_argument("--checkpoint", default="geomoe-s", help=text)
    parser.add_argument("--which", default="last", help="checkpoint of a run directory: last, best or a step")
    parser.add_argument("--pool", help="pooling, as mean, stages or stages+metadata (default: mean)")
    dtypes = "of the vectors in the file; int8 has a scale a dimension (default: float32)"
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help=dtypes)
    together = "of a .tif: tiles of all bands, quick to read by pixel (default), or of one band"
    parser.add_argument("--interleave", default="pixel", choices=INTERLEAVES, help=together)
    parser.add_argument("--batch_size", type=int, default=256, help="images at once (default: 256)")
    add_image_options(parser)
    own = f"of the z-score: {COMPUTED}, the images' own, or a file of `geomoe prepare --statistics` (default: the encoder's)"
    parser.add_argument("--statistics", help=own)
    parser.add_argument("--fill_missing", action="store_true", help="give bands that the files lack as the training mean")
    parser.add_argument("--nodata", choices=NODATA_MODES, default="masked", help="pixels without data do not speak, or do")
    cells = "a pixel of the map is a window's stride, a patch (token) or a pixel of the scene"
    parser.add_argument("--resolution", choices=RESOLUTIONS, help=f"of the map of a scene: {cells} (default: window)")
    parser.add_argument("--stride", type=int, help="of the windows of a scene, in pixels (default: half a window)")
    parser.add_argument("--min_valid", type=float, help="least share of a window that holds data (default: 0.5)")
    parser.add_argument("--max_cloud", type=float, help=f"largest share of clouds in a window (default: {max_cloud})")
    quality = ", ".join(landsat.QUALITY_CLASSES)
    parser.add_argument("--mask", help=f"pixels of a scene to take for such without data, joined by commas: {quality}")


def statistics_of_file(path: str) -> Statistics:
    """Read statistics of Collection 2 digital numbers; FileNotFoundError without a file, ValueError where it holds none."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file of statistics {path}")
    try:
        with open(path, encoding="utf-8") as file:
            return Statistics.of(json.load(file)).of_collection2()
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no file of statistics, as `geomoe prepare --statistics` writes them: {error}") from None


def image_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was said of the numbers and bands of the images: fields of `InputSpec`."""
    options = {name: getattr(args, name) for name in ("unit", "sensor", "sun_elevation")}
    options["bands"] = args.bands and tuple(name.strip() for name in args.bands.split(","))
    options["fill_missing"] = getattr(args, "fill_missing", False) or None
    options["uint8_range"] = args.uint8_range and tuple(args.uint8_range)
    return {name: value for name, value in options.items() if value is not None}


def input_spec(args: argparse.Namespace, **options: Any) -> InputSpec:
    """What the images are; `options` are further fields."""
    given = args.statistics
    if given is not None and given != COMPUTED:
        given = statistics_of_file(given)
    return InputSpec(nodata=args.nodata, statistics=given, **image_options(args), **options)


def window_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `geomoe.embeddings.embed_scene` that were given."""
    options = {name: getattr(args, name) for name in OF_SCENES}
    options["mask"] = args.mask and tuple(name.strip() for name in args.mask.split(","))
    return {name: value for name, value in options.items() if value is not None}

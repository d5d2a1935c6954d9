"""The corpus of real Landsat imagery: which images there are, what their numbers are, and which are held out.

Sources, not patches, are held out for every decision about a recipe: Alberta's south, a Landsat 5 image and two of Landsat 7,
and the places of which several dates or sensors show the same ground. A batch takes rows by source, since half of all patches
are of one desert.
"""

import dataclasses
import json
import os
from collections.abc import Callable

import numpy as np

from geomoe.files import atomic_open
from geomoe.landsat import COLLECTION2, LOG, Statistics

BATCH = 64
STATISTICS_FILE = "corpus_statistics.json"  # in the folder of datasets, as `geomoe convert --statistics` takes it
SAMPLE = "bigearthnet_landsat/19"  # 200 patches of Europe, pretrained on without their labels


@dataclasses.dataclass(frozen=True)
class Source:
    """One image of the corpus, and how it is cut.

    Attributes:
        name: of the dataset, `landsat_scene/NAME`.
        path: below the folder of the imagery.
        unit, sensor, sun_elevation: as for `geomoe.data.preprocess.InputSpec`; None is what the image says. Where neither date
            nor metadata tell the sun's elevation, a number that is about right.
        rows: of the image, as for `LandsatScene`; None is all.
        share: rows of a batch of `BATCH`; 0 is held out.
        place: where several held-out sources show the same ground, its name.
        side, stride: of the patches; None is the model's size, half overlapping, of held-out sources, and more of the others,
            which leaves room for random crops.
    """

    name: str
    path: str
    unit: str | None = None
    sensor: str | None = None
    sun_elevation: float | None = None
    rows: tuple[int, int] | None = None
    share: int = 0
    place: str = ""
    side: int | None = None
    stride: int | None = None

    @property
    def dataset(self) -> str:
        return f"landsat_scene/{self.name}"

    @property
    def cut(self) -> dict[str, int]:
        """Side and stride of its patches."""
        side, stride = (64, 32) if self.share else (40, 20)
        return {"side": self.side or side, "stride": self.stride or stride}


def _zoo(name: str, file: str, kind: str, **options: object) -> Source:
    unit, _, sensor = kind.partition(" ")
    return Source(name, f"landsat_zoo/{file}.tif", unit, sensor, **options)  # type: ignore[arg-type]


_NEW_ENGLAND = (
    "le70130301999195",
    "le70130312005211",
    "le70130312015175",
    "lt40130301987146",
    "lt50120312002300",
    "lt50130301994205",
    "lt50130311985100",
)
_ALBERTA = "l8sr_alberta_043024_20200802"

TRAINING: tuple[Source, ...] = (
    _zoo("alberta_north", _ALBERTA, "collection2_dn landsat8", rows=(0, 500), share=8),
    _zoo("utah", "l7l1_saltlake_utah", "uint8 landsat7", share=10),
    _zoo("olinda", "l7l1_olinda_brazil", "uint8 landsat7", share=4),
    _zoo("laos", "l7l1_laos_129046_20080329", "uint8 landsat7", share=4),
    _zoo("talca", "l7l1_talca_233085_20130215", "uint8 landsat7", share=6),
    _zoo("michigan", "l7sr_michigan_023028_20110907", "collection1_sr landsat7", share=3),
    _zoo("amazon", "l8sr_amazon_232066_20190727", "collection1_sr landsat8", share=4),
    _zoo("peru", "l8sr_peru_003069_20180906", "collection1_sr landsat8", share=2, side=48, stride=16),
    _zoo("elkton", "l8l1_elkton_va", "level1_dn landsat8", sun_elevation=50.0, share=2),
    Source("alabama", "landsat_level1_scene", share=6),
    *(_zoo(f"newengland_{n}", f"sr_newengland_{n}", f"collection1_sr landsat{n[2]}", share=1) for n in _NEW_ENGLAND),
)
HELD_OUT: tuple[Source, ...] = (
    _zoo("alberta_south", _ALBERTA, "collection2_dn landsat8", rows=(500, 1001)),
    _zoo("para", "l5l1_para_224063_19880814", "uint8 landsat5"),
    _zoo("pennsylvania_july", "l7l1_pennsylvania_015032_20020720", "uint8 landsat7", place="pennsylvania"),
    _zoo("pennsylvania_november", "l7l1_pennsylvania_015032_20021125", "uint8 landsat7", place="pennsylvania"),
    _zoo("ethiopia_2000", "l5l1_ethiopia_167055_20000309", "uint8 landsat5", place="ethiopia"),
    _zoo("ethiopia_2010", "l5l1_ethiopia_167055_20101218", "uint8 landsat5", place="ethiopia"),
    _zoo("ethiopia_2017_etm", "l7l1_ethiopia_167055_20170316", "uint8 landsat7", place="ethiopia"),
    _zoo("ethiopia_2017_oli", "l8l1_ethiopia_167055_20170308", "level1_dn landsat8", sun_elevation=55.0, place="ethiopia"),
    _zoo("marburg_2001", "l7l1_marburg_195025_20010730", "uint8 landsat7", place="marburg"),
    _zoo("marburg_2013", "l8l1_marburg_195025_20130707", "level1_dn landsat8", sun_elevation=55.0, place="marburg"),
)


def training_mix() -> tuple[tuple[str, float], ...]:
    """`config.data.mix`: the training sources with their shares of a batch; the rest is the main dataset's, `SAMPLE`."""
    return tuple((source.dataset, source.share / BATCH) for source in TRAINING)


def corpus_statistics(data_dir: str) -> Statistics:
    """Compute the statistics by which the released encoders z-score images: of the training sources, each weighed by its share.

    They are of the logarithm of reflectance, so that no source's clouds or brightness hide what varies in another.

    Raises:
        geomoe.data.DatasetNotPreparedError: a source is not prepared.
    """
    from geomoe import data  # imports TensorFlow

    shares = dict(training_mix())
    shares[SAMPLE] = 1 - sum(shares.values())
    sources = [data.compute_statistics(name, "train", data_dir, scale=LOG) for name in shares]
    weights = np.array(list(shares.values()))
    means, stds = np.array([of_source.mean for of_source in sources]), np.array([of_source.std for of_source in sources])
    mean = weights @ means
    variance = weights @ (np.square(means) + np.square(stds)) - np.square(mean)
    return Statistics(tuple(mean), tuple(np.sqrt(variance)), "computed:corpus", COLLECTION2, LOG)


def prepare_corpus(folder: str, data_dir: str, progress: Callable[[str, int], None] = lambda name, patches: None) -> None:
    """Cut every image into a dataset of its own; those that are prepared are left as they are. `STATISTICS_FILE` is written.

    Args:
        folder: holds `landsat_zoo`, `landsat_level1_scene` and `landsat_sample`.
        data_dir: where the datasets go.
        progress: called with the name of each dataset and its number of patches.

    Raises:
        FileNotFoundError: an image is not there.
    """
    from geomoe.data.builders import BUILDERS  # imports TensorFlow

    for source in (*TRAINING, *HELD_OUT):
        fields = ("unit", "sensor", "sun_elevation", "rows")
        options = {name: getattr(source, name) for name in fields} | source.cut | {"max_cloud": 1.0, "config": source.name}
        builder = BUILDERS["landsat_scene"](source=os.path.join(folder, source.path), data_dir=data_dir, **options)
        builder.download_and_prepare()
        progress(source.dataset, builder.info.splits["train"].num_examples)
    sample = os.path.join(folder, "landsat_sample")
    builder = BUILDERS["bigearthnet_landsat"](source=sample, data_dir=data_dir, config="19", keep_nodata=True)
    builder.download_and_prepare()
    progress(SAMPLE, builder.info.splits["train"].num_examples)
    with atomic_open(os.path.join(data_dir, STATISTICS_FILE)) as file:
        json.dump(dict(corpus_statistics(data_dir)), file, indent=1)

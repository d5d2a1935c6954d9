"""Real images of Landsat 4, 5, 7 and 8 in the forms that users have: each is prepared and embedded as the docs say."""

import json

import numpy as np
import pytest

import geomoe
from geomoe import embeddings
from geomoe.data.builders import LandsatScene
from geomoe.data.preprocess import InputSpec

UNITS = {"uint16, refl": "collection2_dn", "int16 refl": "collection1_sr", "uint8": "uint8", "uint16 DN": "level1_dn"}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::geomoe.data.preprocess.StatisticsWarning")  # of level 1, which they are not
def test_every_image_is_prepared_and_embedded(shared, run_dir, tmp_path):
    zoo = shared / "landsat_zoo"
    if not zoo.exists():
        pytest.skip("needs ../shared/landsat_zoo")
    encoder = geomoe.load(run_dir)
    images = json.loads((zoo / "manifest.json").read_text())
    assert len(images) == 25
    for image in images:
        name = image["name"]
        unit = next(unit for start, unit in UNITS.items() if image["units"].startswith(start))
        said = dict(
            unit=unit, sensor=f"landsat{image['sensor'].split()[1]}", sun_elevation=50.0 if unit == "level1_dn" else None
        )
        sink = embeddings.Sink(tmp_path / f"{name}.npz")
        counts = embeddings.embed_scene(
            encoder, sink, zoo / f"{name}.tif", spec=InputSpec(**said), stride=encoder.config.img_size
        )
        table = embeddings.read(tmp_path / f"{name}.npz")
        assert counts["embedded"] > 0 and np.isfinite(table["vector"][table["embedded"]]).all(), name
        assert np.isnan(table["latitude"]).all() == (image["crs"] is None), name
        builder = LandsatScene(source=zoo / f"{name}.tif", data_dir=tmp_path, config=name, side=40, **said)
        builder.download_and_prepare()
        assert builder.info.splits["train"].num_examples >= image["patches_40"] * 0.9, name

"""The embedded default: procedural Landsat-like patches, rendered on first use (see `geomoe.data.synthetic`)."""

import functools
from typing import Any

from geomoe.data import synthetic
from geomoe.data.builders.base import LandsatBuilder
from geomoe.data.builders.listing import Entry, Listing, Reader
from geomoe.data.tensorflow_setup import tfds


class SyntheticConfig(tfds.core.BuilderConfig):
    """How many patches, from which seed, and which labels."""

    def __init__(self, *, seed: int = 0, counts: dict[str, int] | None = None, dominant: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.counts = dict(counts or {"train": 4096, "val": 1024, "test": 1024})
        self.seed, self.dominant = seed, dominant


def read_entry(entry: Entry, dominant: bool) -> dict[str, Any]:
    """Render one patch; `entry.details` is (seed, split, index)."""
    record = synthetic.record(*entry.details)
    return {**record, "labels": [record["dominant"]]} if dominant else record


class SyntheticLandsat(LandsatBuilder):
    """Synthetic patches: config "covers" (multi-label, the default) or "dominant" (multi-class); any `SyntheticConfig`."""

    name = "synthetic_landsat"
    BUILDER_CONFIGS = [
        SyntheticConfig(name="covers", description="labels: the covers present"),
        SyntheticConfig(name="dominant", description="label: the dominant cover", dominant=True),
    ]

    def facts(self) -> dict[str, Any]:
        return dict(
            class_names=synthetic.CLASSES,
            task="multiclass" if self.builder_config.dominant else "multilabel",
            description="Procedural Landsat-like patches with metadata and land-cover labels.",
        )

    def reader(self) -> Reader:
        return functools.partial(read_entry, dominant=self.builder_config.dominant)

    def _require_source(self) -> None:
        pass  # rendered, not read

    def list_source(self) -> Listing:
        config = self.builder_config
        entry = lambda split, i: Entry(f"{split}/{i}", "synthetic", (config.seed, split, i))
        return Listing({split: [entry(split, i) for i in range(count)] for split, count in config.counts.items()})

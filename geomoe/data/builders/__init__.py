"""The TFDS builders, by name."""

from geomoe.data.builders.base import LandsatBuilder
from geomoe.data.builders.bigearthnet_landsat import BigearthnetLandsat
from geomoe.data.builders.eurosat_landsat import EurosatLandsat
from geomoe.data.builders.landsat_folder import LandsatFolder
from geomoe.data.builders.landsat_scene import LandsatScene
from geomoe.data.builders.listing import SKIPPED_FILE, Skipped, read_skipped
from geomoe.data.builders.synthetic_landsat import SyntheticConfig, SyntheticLandsat

BUILDERS = {cls.name: cls for cls in (BigearthnetLandsat, EurosatLandsat, LandsatFolder, LandsatScene, SyntheticLandsat)}

__all__ = [
    "BUILDERS",
    "SKIPPED_FILE",
    "BigearthnetLandsat",
    "EurosatLandsat",
    "LandsatBuilder",
    "LandsatFolder",
    "LandsatScene",
    "Skipped",
    "SyntheticConfig",
    "SyntheticLandsat",
    "read_skipped",
]

"""The TFDS builders, by name."""

from geomoe.data.builders.base import LandsatBuilder as LandsatBuilder
from geomoe.data.builders.bigearthnet_landsat import BigearthnetLandsat
from geomoe.data.builders.eurosat_landsat import EurosatLandsat
from geomoe.data.builders.landsat_folder import LandsatFolder
from geomoe.data.builders.landsat_scene import LandsatScene
from geomoe.data.builders.listing import read_skipped as read_skipped
from geomoe.data.builders.synthetic_landsat import SyntheticConfig as SyntheticConfig, SyntheticLandsat

BUILDERS = {cls.name: cls for cls in (BigearthnetLandsat, EurosatLandsat, LandsatFolder, LandsatScene, SyntheticLandsat)}

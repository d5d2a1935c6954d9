"""What pretraining asks of the model: reconstruction, and the objectives, one file each and one entry here.

An objective has its weight and its options in the `loss` section of a config, its columns in metrics.csv and its curve in the
report by being in `OBJECTIVES`. All are off in the published recipe.
"""

from geomoe.training.losses import (
    data2vec,
    info_nce,
    metadata,
    oriented_gradients,
    patch_statistics,
    router_z,
    spectral_indices,
    vicreg,
)
from geomoe.training.losses.objective import LossInputs as LossInputs, Objective as Objective

_FILES = (router_z, info_nce, vicreg, spectral_indices, data2vec, metadata, patch_statistics, oriented_gradients)
OBJECTIVES: tuple[Objective, ...] = tuple(file.OBJECTIVE for file in _FILES)

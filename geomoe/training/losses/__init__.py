"""What pretraining asks of the model: reconstruction, and the objectives, one file each and one entry here.

An objective has its weight and its options in the `loss` section of a config, its columns in metrics.csv and its curve in the
report by being in `OBJECTIVES`. All are off in the published recipe.
"""

from geomoe.training.losses import data2vec, info_nce, metadata, router_z, spectral_indices, vicreg
from geomoe.training.losses.objective import LossInputs, Objective

OBJECTIVES: tuple[Objective, ...] = tuple(
    module.OBJECTIVE for module in (router_z, info_nce, vicreg, spectral_indices, data2vec, metadata)
)

__all__ = ["OBJECTIVES", "LossInputs", "Objective"]

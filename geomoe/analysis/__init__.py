"""What the model sees: reconstructions, routing, reliance on place and time, projections; and the report of a run."""

from geomoe.analysis.projections import project
from geomoe.analysis.reconstructions import FALSE_COLOUR, TRUE_COLOUR, Reconstruction, composite, reconstruct, side_by_side
from geomoe.analysis.reliance import Reliance, metadata_reliance
from geomoe.analysis.routing import Routing, ablation_effects, contribution_norms

__all__ = [
    "FALSE_COLOUR",
    "TRUE_COLOUR",
    "Reconstruction",
    "Reliance",
    "Routing",
    "ablation_effects",
    "composite",
    "contribution_norms",
    "metadata_reliance",
    "project",
    "reconstruct",
    "side_by_side",
]

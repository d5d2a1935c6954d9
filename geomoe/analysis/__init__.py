"""What the model sees: experts, sensitivity to metadata, projections; and the report of a run."""

from geomoe.analysis.experts import ablation_effects, contribution_norms
from geomoe.analysis.projections import project
from geomoe.analysis.sensitivity import MetadataReadout, Sensitivity, metadata_readout, metadata_sensitivity

__all__ = [
    "MetadataReadout",
    "Sensitivity",
    "ablation_effects",
    "contribution_norms",
    "metadata_readout",
    "metadata_sensitivity",
    "project",
]

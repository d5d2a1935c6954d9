"""What the model sees: experts, sensitivity to metadata, projections; and the report of a run."""

from geomoe.analysis.experts import ablation_effects, contribution_norms
from geomoe.analysis.projections import project
from geomoe.analysis.sensitivity import MetadataProbe, Sensitivity, metadata_probe, metadata_sensitivity

__all__ = [
    "MetadataProbe",
    "Sensitivity",
    "ablation_effects",
    "contribution_norms",
    "metadata_probe",
    "metadata_sensitivity",
    "project",
]

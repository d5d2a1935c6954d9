"""What the model sees: reconstructions."""

from geomoe.analysis.reconstructions import FALSE_COLOUR, TRUE_COLOUR, Reconstruction, composite, reconstruct, side_by_side

__all__ = ["FALSE_COLOUR", "TRUE_COLOUR", "Reconstruction", "composite", "reconstruct", "side_by_side"]

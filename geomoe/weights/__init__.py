"""Foreign weights: the published PyTorch checkpoints, read and written without PyTorch."""

from geomoe.weights.torch_format import TorchFormatError
from geomoe.weights.torch_weights import load_torch_checkpoint, save_torch_checkpoint

__all__ = ["TorchFormatError", "load_torch_checkpoint", "save_torch_checkpoint"]

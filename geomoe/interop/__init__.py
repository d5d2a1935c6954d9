"""Other systems' formats: published PyTorch weights, StableHLO (`.stablehlo`), a PyTorch module (`.torch_module`)."""

from geomoe.interop.torch_format import TorchFormatError
from geomoe.interop.torch_weights import load_torch_checkpoint, save_torch_checkpoint

__all__ = ["TorchFormatError", "load_torch_checkpoint", "save_torch_checkpoint"]

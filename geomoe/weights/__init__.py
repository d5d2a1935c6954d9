"""Foreign weights: the published PyTorch checkpoints, read and written without PyTorch."""

from geomoe.weights.torch_format import TorchFormatError as TorchFormatError
from geomoe.weights.torch_weights import (
    load_torch_checkpoint as load_torch_checkpoint,
    read_torch_checkpoint as read_torch_checkpoint,
    save_torch_checkpoint as save_torch_checkpoint,
)

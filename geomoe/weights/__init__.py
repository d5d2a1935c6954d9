"""Weights as files: the published PyTorch checkpoints without PyTorch, safetensors, and what is fetched by name or address."""

from geomoe.weights.download import PUBLISHED as PUBLISHED, fetch as fetch, is_address as is_address
from geomoe.weights.formats import SAFETENSORS as SAFETENSORS, format_of as format_of
from geomoe.weights.packaged import PACKAGED as PACKAGED, packaged_path as packaged_path
from geomoe.weights.safetensors_file import load_safetensors as load_safetensors, save_safetensors as save_safetensors
from geomoe.weights.torch_format import TorchFormatError as TorchFormatError
from geomoe.weights.torch_weights import (
    load_torch_checkpoint as load_torch_checkpoint,
    read_torch_checkpoint as read_torch_checkpoint,
    save_torch_checkpoint as save_torch_checkpoint,
)

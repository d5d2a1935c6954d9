"""The networks: encoder and masked autoencoder as Flax modules."""

from typing import Any

import jax

from geomoe.models.config import (
    NUM_METADATA_TOKENS as NUM_METADATA_TOKENS,
    NUM_PREFIX_TOKENS as NUM_PREFIX_TOKENS,
    SIZES as SIZES,
    ModelConfig as ModelConfig,
)
from geomoe.models.encoder import (
    Encoder as Encoder,
    TokenOutput as TokenOutput,
    encode as encode,
    patchify as patchify,
    unpatchify as unpatchify,
)
from geomoe.models.mae import (
    MAE as MAE,
    MAEOutput as MAEOutput,
    autoencode as autoencode,
    check_params as check_params,
    param_shapes as param_shapes,
    random_masking as random_masking,
)


def build_encoder(size: str = "S", img_size: int = 40, patch_size: int = 4, in_channels: int = 7, **options: Any) -> Encoder:
    """Build the encoder of a published size ("S", "XS", "XXS"), "tiny", or "custom".

    `options` are further fields of `ModelConfig`, which override those of the size.

    >>> build_encoder("XXS").config.width
    108
    """
    return Encoder(_config(size, img_size, patch_size, in_channels, options))


def build_mae(size: str = "S", img_size: int = 40, patch_size: int = 4, in_channels: int = 7, **options: Any) -> MAE:
    """Build the masked autoencoder; arguments as for `build_encoder`."""
    return MAE(_config(size, img_size, patch_size, in_channels, options))


def _config(size: str, img_size: int, patch_size: int, in_channels: int, options: dict[str, Any]) -> ModelConfig:
    return ModelConfig.from_dict(dict(size=size, img_size=img_size, patch_size=patch_size, in_channels=in_channels, **options))


def count_params(params: Any) -> int:
    """Number of values in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

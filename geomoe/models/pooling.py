"""Readouts: what the encoder gives for an image -> one embedding.

A pool is the name of a part, or several joined by "+", whose embeddings are put one after the other: "stages+metadata".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from geomoe.metadata import FIELDS
from geomoe.models import ModelConfig, TokenOutput
from geomoe.models.config import NUM_METADATA_TOKENS, NUM_PREFIX_TOKENS

Array = jax.Array


def _stage_ends(config: ModelConfig) -> list[int]:
    depth = config.depth // len(config.stage_experts)
    return [depth * (stage + 1) - 1 for stage in range(len(config.stage_experts))]


def _stages(out: TokenOutput, pairs: Sequence[Array], config: ModelConfig) -> Array:
    ends = [jnp.mean(out.layer_tokens[i].astype(jnp.float32), axis=1) for i in _stage_ends(config)]
    return jnp.concatenate(ends, axis=-1)


def _layer_mean(out: TokenOutput, pairs: Sequence[Array], config: ModelConfig) -> Array:
    return sum(jnp.mean(tokens.astype(jnp.float32), axis=1) for tokens in out.layer_tokens) / config.depth


def _unit_mean(out: TokenOutput, pairs: Sequence[Array], config: ModelConfig) -> Array:
    mean = jnp.mean(out.tokens, axis=1)
    return mean * (config.width**0.5 / (jnp.linalg.norm(mean, axis=-1, keepdims=True) + 1e-8))


# name -> (function of the encoder's output, the [sin, cos] pairs and the model; width of an embedding)
_PARTS: dict[str, tuple[Callable[..., Array], Callable[[ModelConfig], int]]] = {
    "mean": (lambda out, pairs, config: jnp.mean(out.tokens, axis=1), lambda config: config.width),
    "unit_mean": (_unit_mean, lambda config: config.width),
    "patch_mean": (lambda out, pairs, config: jnp.mean(_patches(out), axis=1), lambda config: config.width),
    "patch_std": (lambda out, pairs, config: jnp.std(_patches(out), axis=1), lambda config: config.width),
    "cls": (lambda out, pairs, config: out.tokens[:, NUM_METADATA_TOKENS], lambda config: config.width),
    "stages": (_stages, lambda config: config.width * len(config.stage_experts)),
    "layer_mean": (_layer_mean, lambda config: config.width),
    "metadata": (lambda out, pairs, config: jnp.concatenate(list(pairs), axis=-1), lambda config: 2 * len(FIELDS)),
}
POOLS = (*_PARTS, "tokens")


def _patches(out: TokenOutput) -> Array:
    return out.tokens[:, NUM_PREFIX_TOKENS:]


def check_pool(pool: str) -> list[str]:
    """The parts of a pool.

    Raises:
        ValueError: a part is none of `POOLS`, stands twice, or is "tokens" beside others.
    """
    parts = pool.split("+")
    for part in parts:
        if part not in POOLS:
            raise ValueError(f"pool = {pool!r}: {part!r} is not one of {', '.join(POOLS)} (several are joined by '+')")
        if parts.count(part) > 1:
            raise ValueError(f"pool = {pool!r} names {part!r} twice")
    if "tokens" in parts and len(parts) > 1:
        raise ValueError(f"pool = {pool!r}: 'tokens' gives every token and joins with no other")
    return parts


def pool_width(config: ModelConfig, pool: str) -> int:
    """Numbers in an embedding; for "tokens" in each of its tokens."""
    return config.width if pool == "tokens" else sum(_PARTS[part][1](config) for part in check_pool(pool))


def pool_tokens(out: TokenOutput, pairs: Sequence[Array], config: ModelConfig, pool: str) -> Array:
    """The encoder's output to embeddings.

    - "mean" over all tokens, the published embedding; "patch_mean" over the patches' tokens; "cls": D numbers each.
    - "unit_mean": "mean" brought to one length, the root of D, as the contrast of pretraining compares it; D.
    - "patch_std": deviation over the patches' tokens, D.
    - "stages": the mean over all tokens at the end of each stage, one after the other, 3 D for the published sizes.
    - "layer_mean": the mean over all tokens and blocks, D.
    - "metadata": the eight numbers of week, hour, latitude and longitude as the encoder is told them, for a probe to read
      beside what the encoder makes of the pixels.
    - "tokens": all of them, (N, T, D).

    Args:
        pairs: (N, 2) each, the [sin, cos] pairs that went in.

    Returns:
        (N, width) float32, or (N, T, D).
    """
    if pool == "tokens":
        return out.tokens
    values = [_PARTS[part][0](out, pairs, config) for part in check_pool(pool)]
    return values[0] if len(values) == 1 else jnp.concatenate(values, axis=-1)

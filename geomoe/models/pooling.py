"""Poolings: what the encoder gives for an image -> one embedding.

A pool is the name of a pooling, or a tuple of several, whose embeddings are concatenated: "mean", ("stages", "metadata").

Axes: N images, T tokens, P patches, D width.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array

from geomoe.metadata import FIELDS
from geomoe.models.config import NUM_METADATA_TOKENS, NUM_PREFIX_TOKENS, ModelConfig
from geomoe.models.encoder import TokenOutput

Pool = str | tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Pooling:
    """One way from tokens to an embedding."""

    # Of the encoder's output, the metadata that went in (four (N, 2) arrays) and the architecture: (N, width).
    apply: Callable[[TokenOutput, Sequence[Array], ModelConfig], Array]
    width: Callable[[ModelConfig], int]  # numbers of an embedding, by the architecture


def mean_token(tokens: Array, present: Array | None) -> Array:
    """(N, T, D) -> (N, D) float32: the mean over the tokens that are present, 0 where none is."""
    tokens = tokens.astype(jnp.float32)
    if present is None:
        return jnp.mean(tokens, axis=1)
    weight = present[:, :, None].astype(jnp.float32)
    return jnp.sum(tokens * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)


def _of_tokens(pool: Callable[[Array, Array | None], Array]) -> Pooling:
    """A pooling of the last tokens (N, T, D), and which of them are present, with embeddings of width D."""
    return Pooling(lambda out, metadata, config: pool(out.tokens, out.present), lambda config: config.width)


def _of_patches(pool: Callable[[Array, Array | None], Array]) -> Pooling:
    """The same of the patches' tokens alone."""
    rest = slice(NUM_PREFIX_TOKENS, None)
    return _of_tokens(lambda tokens, present: pool(tokens[:, rest], None if present is None else present[:, rest]))


def _std(tokens: Array, present: Array | None) -> Array:
    if present is None:
        return jnp.std(tokens, axis=1)
    return jnp.sqrt(mean_token(jnp.square(tokens - mean_token(tokens, present)[:, None]), present))


def _unit_mean(tokens: Array, present: Array | None) -> Array:
    mean = mean_token(tokens, present)
    return mean * (tokens.shape[-1] ** 0.5 / (jnp.linalg.norm(mean, axis=-1, keepdims=True) + 1e-8))


def _layer_means(out: TokenOutput) -> list[Array]:
    return [mean_token(tokens, out.present) for tokens in out.layer_tokens]


def _stages(out: TokenOutput, metadata: Sequence[Array], config: ModelConfig) -> Array:
    depth = config.depth // len(config.stage_experts)
    return jnp.concatenate(_layer_means(out)[depth - 1 :: depth], axis=-1)


POOLINGS: dict[str, Pooling] = {
    "mean": _of_tokens(mean_token),
    "unit_mean": _of_tokens(_unit_mean),
    "patch_mean": _of_patches(mean_token),
    "patch_std": _of_patches(_std),
    "cls": _of_tokens(lambda tokens, present: tokens[:, NUM_METADATA_TOKENS]),
    "metadata_tokens": _of_tokens(lambda tokens, present: mean_token(tokens[:, :NUM_METADATA_TOKENS], None)),
    "stages": Pooling(_stages, lambda config: config.width * len(config.stage_experts)),
    "layer_mean": Pooling(
        lambda out, metadata, config: jnp.mean(jnp.stack(_layer_means(out)), axis=0), lambda config: config.width
    ),
    "metadata": Pooling(lambda out, metadata, config: jnp.concatenate(list(metadata), axis=-1), lambda config: 2 * len(FIELDS)),
}
TOKENS = "tokens"


def check_pool(pool: Pool) -> tuple[str, ...]:
    """The names of the poolings of a pool.

    Raises:
        ValueError: one is unknown, stands twice, or is "tokens" beside others.
    """
    names = (pool,) if isinstance(pool, str) else tuple(pool)
    if isinstance(pool, str) and "+" in pool:
        raise ValueError(f"pool = {pool!r}: give several poolings as a tuple, {tuple(pool.split('+'))}")
    if not names:
        raise ValueError("pool = () names no pooling")
    for name in names:
        if name not in POOLINGS and name != TOKENS:
            raise ValueError(f"pool = {pool!r}: {name!r} is not one of {', '.join(POOLINGS)}, {TOKENS}")
        if names.count(name) > 1:
            raise ValueError(f"pool = {pool!r} names {name!r} twice")
    if TOKENS in names and len(names) > 1:
        raise ValueError(f"pool = {pool!r}: {TOKENS!r} gives every token and joins with no other")
    return names


def check_pooled(pool: Pool) -> None:
    """Raise ValueError where a pool is unknown, or gives every token and not one vector an image."""
    check_pool(pool)
    if pool == TOKENS:
        raise ValueError("pool = 'tokens' gives every token, no vector a window or patch; take 'mean', or a map of tokens")


def parse_pool(text: str) -> Pool:
    """The command line's short form, "mean+metadata", to a pool.

    >>> parse_pool("mean+metadata"), parse_pool("cls")
    (('mean', 'metadata'), 'cls')
    """
    names = tuple(name.strip() for name in text.split("+"))
    pool = names[0] if len(names) == 1 else names
    check_pool(pool)
    return pool


def pool_name(pool: Pool) -> str:
    """The short form of a pool, for tables and file columns; the inverse of `parse_pool`."""
    return pool if isinstance(pool, str) else "+".join(pool)


def pool_width(config: ModelConfig, pool: Pool) -> int:
    """Numbers in an embedding; for "tokens" in each of its tokens."""
    return config.width if pool == TOKENS else sum(POOLINGS[name].width(config) for name in check_pool(pool))


def pool_tokens(out: TokenOutput, metadata: Sequence[Array], config: ModelConfig, pool: Pool) -> Array:
    """Pool the encoder's output to embeddings.

    - "mean" over all tokens, the published embedding; "patch_mean" over the patches' tokens; "cls": D numbers each.
    - "metadata_tokens": the mean over the four metadata tokens, what the encoder makes of the metadata beside the pixels; D.
    - "unit_mean": "mean" scaled to length sqrt(D), as the contrastive objective compares it; D.
    - "patch_std": standard deviation over the patches' tokens, D.
    - "stages": the mean over all tokens at the end of each stage, concatenated, 3 D for the published sizes.
    - "layer_mean": the mean over all tokens and blocks, D.
    - "metadata": the eight numbers of week, hour, latitude and longitude as the encoder is given them, for a probe to read
      beside what the encoder makes of the pixels.
    - "tokens": all of them, (N, T, D); NaN where a patch holds no data.

    Tokens that are not present (`TokenOutput.present`) count in no mean and no standard deviation.

    Args:
        metadata: week, hour, lat, lon, (N, 2) each: the [sin, cos] pairs that went in.
        pool: one name, or a tuple of several.

    Returns:
        (N, width) float32, or (N, T, D).
    """
    if pool == TOKENS:
        return out.tokens if out.present is None else jnp.where(out.present[:, :, None], out.tokens, jnp.nan)
    values = [POOLINGS[name].apply(out, metadata, config) for name in check_pool(pool)]
    return values[0] if len(values) == 1 else jnp.concatenate(values, axis=-1)

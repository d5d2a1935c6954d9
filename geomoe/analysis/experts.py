"""What each expert does to the tokens that go to it.

Axes: N images, T tokens (4 metadata, CLS, P patches), P = side * side, D width, E experts of a layer, L layers.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from geomoe import compilation
from geomoe.metadata import FIELDS
from geomoe.models import NUM_PREFIX_TOKENS, ModelConfig, TokenOutput, encode
from geomoe.models.experts import expert_outputs
from geomoe.models.kernels import ExpertParams
from geomoe.pretrained import PretrainedEncoder

# Images (N, S, S, C); week, hour, lat, lon (N, 2) each; and the pixels that hold data, (N, S, S), or None for all.
Inputs = tuple[jax.Array, tuple[jax.Array, ...], jax.Array | None]


def _inputs(encoder: PretrainedEncoder, batch: Mapping[str, np.ndarray], layer: int) -> tuple[ModelConfig, Any, Inputs]:
    """Config, parameters and inputs, for a layer that there is."""
    cfg = encoder.config
    if not isinstance(layer, int | np.integer) or not 0 <= layer < cfg.depth:
        raise ValueError(f"layer {layer} is not one of the {cfg.depth} layers, 0 to {cfg.depth - 1}")
    if absent := [name for name in ("image", *FIELDS) if name not in batch]:
        raise ValueError(f"the batch has no {', '.join(absent)}; `geomoe.metadata.encode` gives {', '.join(FIELDS)}")
    metadata = tuple(jnp.asarray(batch[name]) for name in FIELDS)
    valid = jnp.asarray(batch["valid"]) if "valid" in batch else None
    return cfg, encoder.params["encoder"], (jnp.asarray(batch["image"]), metadata, valid)


def _encode(config: ModelConfig, params: Any, inputs: Inputs) -> TokenOutput:
    images, metadata, valid = inputs
    return encode(config, params, images, *metadata, valid=valid)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _contributions(config: ModelConfig, layer: int, params: Any, inputs: Inputs) -> jax.Array:
    out = _encode(config, params, inputs)
    x, gates = out.mixture_inputs[layer], out.gates[layer]
    experts = ExpertParams(**params[f"block_{layer:02d}"]["moe"]["experts"])
    each = expert_outputs(x.reshape(-1, config.width), experts).reshape(*gates.shape, config.width)
    return jnp.linalg.norm(each * gates[..., None], axis=-1)


@compilation.isolated
def contribution_norms(encoder: PretrainedEncoder, batch: Mapping[str, np.ndarray], layer: int) -> np.ndarray:
    """Compute |g_e expert_e(x)| of each token in one layer: (N, T, E), 0 for experts that were not chosen.

    Args:
        batch: image (N, S, S, C) z-scored; week, hour, lat, lon (N, 2); and valid (N, S, S) bool, if some pixels hold no data.
    """
    config, params, inputs = _inputs(encoder, batch, layer)
    return np.asarray(_contributions(config, layer, params, inputs))


@functools.partial(jax.jit, static_argnums=0)
def _tokens(config: ModelConfig, params: Any, inputs: Inputs) -> jax.Array:
    out = _encode(config, params, inputs)
    return out.tokens if out.present is None else out.tokens * out.present[:, :, None]


@compilation.isolated
def ablation_effects(encoder: PretrainedEncoder, batch: Mapping[str, np.ndarray], layer: int) -> np.ndarray:
    """Measure how far the last tokens move when one expert of a layer can no longer be chosen: (E, N, side, side).

    The router of that layer then takes the next best expert. Distances are Euclidean, over the width, relative to the mean
    norm of the tokens.

    Args:
        batch: as for `contribution_norms`; what holds no data does not move.

    Raises:
        ValueError: the layer has no more experts than are chosen, so that none can be left out.
    """
    cfg, params, inputs = _inputs(encoder, batch, layer)
    experts = cfg.num_experts(layer)
    if experts <= cfg.top_k:
        raise ValueError(f"layer {layer} has {experts} experts and chooses {cfg.top_k}: none can be left out")
    whole = np.asarray(_tokens(cfg, params, inputs))
    side = cfg.img_size // cfg.patch_size
    maps = []
    for e in range(experts):
        without = jax.tree.map(lambda leaf: leaf, params)  # new dicts, the same leaves
        clean = without[f"block_{layer:02d}"]["moe"]["router"]["clean"]
        clean["bias"] = np.asarray(clean["bias"]) - 1e9 * np.eye(experts, dtype=np.float32)[e]
        moved = np.asarray(_tokens(cfg, without, inputs)) - whole
        maps.append(np.linalg.norm(moved[:, NUM_PREFIX_TOKENS:], axis=-1).reshape(-1, side, side))
    norms = np.linalg.norm(whole, axis=-1)
    return np.stack(maps) / norms[norms > 0].mean()

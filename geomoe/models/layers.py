"""Small pieces that every block uses: LayerNorm, and a linear layer with PyTorch's default initialisation.

The published weights start from PyTorch's defaults, so random-weight baselines and training curves compare only if ours do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array

LAYER_NORM_EPSILON = 1e-5


def fan_in_uniform(fan_in: int):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for the weights and the biases of linear and conv layers."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def param(module: nn.Module, name: str, init: Callable[..., Array], shape: tuple[int, ...]) -> Array:
    """`module.param` in float32, which checks the shape without tracing the initialiser again at every call.

    Raises:
        ValueError: the parameter is there with another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, init, shape, jnp.float32)
    value = module.get_variable("params", name)
    if jnp.shape(value) != shape:
        where = "/".join((*module.path, name))
        raise ValueError(f"parameter {where} has shape {jnp.shape(value)}, and the model needs {shape}")
    return value


class LinearParams(nn.Module):
    """Declares the parameters of a linear layer and returns them, for callers that join several into one matmul."""

    in_features: int
    features: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        init = fan_in_uniform(self.in_features)
        kernel = param(self, "kernel", init, (self.in_features, self.features))
        return kernel, param(self, "bias", init, (self.features,))


def linear(x: Array, params: tuple[Array, Array], dtype: Any) -> Array:
    """x W + b in `dtype`: (..., in) -> (..., features)."""
    kernel, bias = params
    return x.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype)


class LayerNormParams(nn.Module):
    """Declares the scale and the bias of a LayerNorm of width D and returns them, (D,) each."""

    width: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        scale = param(self, "scale", nn.initializers.ones, (self.width,))
        return scale, param(self, "bias", nn.initializers.zeros, (self.width,))


@jax.custom_vjp
def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """(x - mean) / sqrt(variance + 1e-5) * scale + bias over the last axis, in float32 (Ba et al. 2016, arXiv 1607.06450).

    The gradient is written out, since differentiating the line above compiles to more operations.

    Args:
        x: (..., D).
        scale, bias: (D,) float32.

    Returns:
        (..., D), in the type of `x`.
    """
    return _layer_norm(x, scale, bias)[0]


def _layer_norm(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple[Array, ...]]:
    values = x.astype(jnp.float32)
    mean = jnp.mean(values, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(values), axis=-1, keepdims=True) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0) + LAYER_NORM_EPSILON)
    return ((values - mean) * inverse * scale + bias).astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_gradient(saved: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    x, mean, inverse, scale = saved
    normed = (x.astype(jnp.float32) - mean) * inverse
    cotangent = cotangent.astype(jnp.float32)
    toward = cotangent * scale
    along = jnp.mean(toward * normed, axis=-1, keepdims=True)
    d_x = inverse * (toward - jnp.mean(toward, axis=-1, keepdims=True) - normed * along)
    rows = tuple(range(x.ndim - 1))
    return d_x.astype(x.dtype), jnp.sum(cotangent * normed, axis=rows), jnp.sum(cotangent, axis=rows)


layer_norm.defvjp(_layer_norm, _layer_norm_gradient)

"""Small pieces that every block uses: PyTorch's default initialisation and a linear layer with it.

The published weights start from PyTorch's defaults, so random-weight baselines and training curves compare only if ours do.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


def fan_in_uniform(fan_in: int):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for the weights and the biases of linear and conv layers."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class LinearParams(nn.Module):
    """Declares the parameters of a linear layer and returns them, for callers that join several into one matmul."""

    in_features: int
    features: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        init = fan_in_uniform(self.in_features)
        kernel = self.param("kernel", init, (self.in_features, self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        return kernel, bias


def linear(x: Array, params: tuple[Array, Array], dtype: Any) -> Array:
    """x W + b in `dtype`: (..., in) -> (..., features)."""
    kernel, bias = params
    return x.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype)

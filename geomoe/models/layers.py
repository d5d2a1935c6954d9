"""Small layers that every block uses, and their initialisation.

The published weights start from PyTorch's defaults, so random-weight baselines and training curves compare only if ours do.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from geomoe.models import kernels


@dataclasses.dataclass(frozen=True)
class Initializer:
    """How a parameter starts: a Flax initialiser that can be drawn on the host as well."""

    kind: str  # "uniform" in (-scale, scale), "normal" with standard deviation `scale`, or "constant"
    scale: float

    def __call__(self, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        """A draw by JAX, as Flax asks for it."""
        if self.kind == "uniform":
            return jax.random.uniform(key, shape, dtype, -self.scale, self.scale)
        if self.kind == "normal":
            return self.scale * jax.random.normal(key, shape, dtype)
        return jnp.full(shape, self.scale, dtype)

    def on_host(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """A draw by numpy, float32: nothing to compile, and the same numbers on every platform."""
        if self.kind == "uniform":
            values = rng.uniform(-self.scale, self.scale, shape)
        elif self.kind == "normal":
            values = self.scale * rng.standard_normal(shape)
        else:
            values = np.full(shape, self.scale)
        return values.astype(np.float32)


def fan_in_uniform(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for the weights and the biases of linear and conv layers."""
    return Initializer("uniform", fan_in**-0.5)


ZEROS, ONES = Initializer("constant", 0.0), Initializer("constant", 1.0)
TOKEN_INIT = Initializer("normal", 0.02)  # of learned tokens and positions

_recorded: contextvars.ContextVar[dict[tuple[str, ...], Initializer] | None] = contextvars.ContextVar("recorded", default=None)


@contextlib.contextmanager
def recorded_initializers() -> Iterator[dict[tuple[str, ...], Initializer]]:
    """Collect the initialiser of each parameter that modules declare meanwhile, by its path in the tree."""
    record: dict[tuple[str, ...], Initializer] = {}
    token = _recorded.set(record)
    try:
        yield record
    finally:
        _recorded.reset(token)


def param(module: nn.Module, name: str, init: Initializer, shape: tuple[int, ...]) -> Array:
    """`module.param` in float32, which checks the shape without tracing the initialiser again at every call.

    Raises:
        ValueError: the parameter is there with another shape.
    """
    if not module.has_variable("params", name):
        if (record := _recorded.get()) is not None:
            record[(*module.path, name)] = init
        return module.param(name, init, shape, jnp.float32)
    value: Array = module.get_variable("params", name)
    if jnp.shape(value) != shape:
        where = "/".join((*module.path, name))
        raise ValueError(f"parameter {where} has shape {jnp.shape(value)}, and the model needs {shape}")
    return value


class Linear(nn.Module):
    """x W + b, computed in `dtype`: (..., in_features) -> (..., features). Parameters: kernel, bias."""

    in_features: int
    features: int
    dtype: Any = jnp.float32
    precision: str | None = None  # of the product, as for `jnp.matmul`; None is what the program asks for

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = fan_in_uniform(self.in_features)
        kernel = param(self, "kernel", init, (self.in_features, self.features))
        bias = param(self, "bias", init, (self.features,))
        product = jnp.matmul(x.astype(self.dtype), kernel.astype(self.dtype), precision=self.precision)
        return product + bias.astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (Ba et al. 2016, arXiv 1607.06450), in float32. Parameters: scale, bias."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """(..., D) -> (..., D), in the dtype of `x`."""
        scale, bias = param(self, "scale", ONES, (self.width,)), param(self, "bias", ZEROS, (self.width,))
        return kernels.layer_norm(x, scale, bias)

"""A transformer block with a mixture of experts, and several one after the other.

Axes: B images, N tokens, T = B * N tokens of a batch, D width, E experts, F hidden width of an expert.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from geomoe.models.attention import Attention
from geomoe.models.config import ModelConfig
from geomoe.models.experts import Experts
from geomoe.models.kernels import Draws, draw
from geomoe.models.layers import LayerNorm
from geomoe.models.router import Router, RouterOutput, balance_loss, router_z_loss


class MixtureOfExperts(nn.Module):
    """A router and E SwiGLU experts on tokens of width D."""

    config: ModelConfig  # top_k, share_projections, selection_bias, dispatch, dropout and dtype
    width: int
    num_experts: int
    hidden: int  # F

    def setup(self) -> None:
        cfg = self.config
        self.router = Router(self.width, self.num_experts, cfg.top_k, cfg.selection_bias)
        self.experts = Experts(
            self.width, self.num_experts, self.hidden, cfg.top_k, cfg.share_projections, cfg.dispatch, jnp.dtype(cfg.dtype)
        )

    def __call__(self, x: Array, draws: Draws | None = None) -> tuple[Array, RouterOutput]:
        """Mix the experts of each token.

        Args:
            x: (B, N, D).
            draws: the random numbers of training; None is the deterministic layer.

        Returns:
            (B, N, D) in the type of the activations, and what the router decided for the T tokens. The experts being linear in
            W2, dropout acts once on their combined output.
        """
        rows = x.reshape(-1, self.width)
        out = self.router(rows, None if draws is None else draws.noise)
        y = self.experts(rows, out.gates)
        if draws is not None and draws.keep is not None:
            y = jnp.where(draws.keep, y / (1 - self.config.dropout), 0)
        return y.reshape(x.shape), out


class BlockOutput(NamedTuple):
    """What a block gives."""

    x: Array  # (B, N, D)
    mixture_input: Array  # (B, N, D)
    router: RouterOutput


class Block(nn.Module):
    """x + attention(norm(x)), then x + mixture(norm(x))."""

    config: ModelConfig  # what all blocks of a model share
    width: int
    num_heads: int
    num_groups: int
    num_experts: int
    hidden: int

    def setup(self) -> None:
        self.norm1 = LayerNorm(self.width)
        self.attention = Attention(self.width, self.num_heads, self.num_groups, jnp.dtype(self.config.dtype))
        self.norm2 = LayerNorm(self.width)
        self.moe = MixtureOfExperts(self.config, self.width, self.num_experts, self.hidden)

    def __call__(self, x: Array, draws: Draws | None = None, present: Array | None = None) -> BlockOutput:
        """(B, N, D) -> (B, N, D); `draws` are the mixture's random numbers in training, `present` as for `Attention`."""
        x = x + self.attention(self.norm1(x), present)
        mixture_input = self.norm2(x)
        y, router = self.moe(mixture_input, draws)
        return BlockOutput(x + y, mixture_input, router)


class Stochastic(NamedTuple):
    """What training draws: router noise and dropout, from the rng streams "router" and "dropout"."""

    router_noise: Array | float = 1.0  # factor of the routers' noise
    # (B,) int32, where the images stand in the global batch, by which they have their random numbers, so that these do not
    # depend on the number of devices; None is 0 to B - 1.
    positions: Array | None = None


class StackOutput(NamedTuple):
    """What blocks one after the other give."""

    x: Array  # (B, N, D), the last output
    gates: list[Array]  # (B, N, E) of each block, 0 for tokens that are not present
    layers: list[Array]  # (B, N, D) of each block, its output
    mixture_inputs: list[Array]  # (B, N, D) of each block
    balance_loss: Array  # scalar, sum over the blocks
    router_z_loss: Array  # the same


def run_blocks(
    module: nn.Module, blocks: Sequence[Block], x: Array, stochastic: Stochastic | None, present: Array | None = None
) -> StackOutput:
    """Run blocks one after the other.

    Args:
        module: the caller, whose rng streams "router" and "dropout" training draws from.
        blocks: of one width; those with equally many experts stand side by side. None give the tokens back.
        x: (B, N, D).
        stochastic: of training; None is without router noise and dropout.
        present: (B, N) bool; the others are looked at by no token, and count in no loss. None is all.
    """
    if not blocks:
        return StackOutput(x, [], [], [], jnp.float32(0), jnp.float32(0))
    config, (b, n, width) = blocks[0].config, x.shape
    draws: Sequence[Draws | None] = [None] * len(blocks)
    if stochastic is not None:
        keys, experts = (module.make_rng("router"), module.make_rng("dropout")), [block.num_experts for block in blocks]
        positions = jnp.arange(b) if stochastic.positions is None else stochastic.positions
        draws = draw(keys, positions, (n, width), experts, config.dropout, stochastic.router_noise)
    outputs: list[BlockOutput] = []
    for block, numbers in zip(blocks, draws):
        outputs.append(block(x, numbers, present))
        x = outputs[-1].x
    counted = None if present is None else present.reshape(-1).astype(jnp.float32)
    loss = functools.partial(balance_loss, top_k=config.top_k, estimator=config.load_estimator, counted=counted)
    z_loss_of = functools.partial(router_z_loss, counted=counted)
    balance = z_loss = jnp.float32(0)
    for count in dict.fromkeys(block.num_experts for block in blocks):  # a stage at once, which compiles to fewer operations
        routers = [out.router for out, block in zip(outputs, blocks) if block.num_experts == count]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *routers)
        balance += jnp.sum(jax.vmap(loss)(stacked))
        z_loss += jnp.sum(jax.vmap(z_loss_of)(stacked))
    gates = [out.router.gates.reshape(b, n, -1) for out in outputs]
    if present is not None:
        gates = [gate * present[:, :, None] for gate in gates]
    return StackOutput(x, gates, [out.x for out in outputs], [out.mixture_input for out in outputs], balance, z_loss)

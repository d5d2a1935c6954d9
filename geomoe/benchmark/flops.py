"""Model FLOPs: what the matmuls of the model need, whatever the program does.

Counted are multiplications and additions (2 for each pair) of the projections, of attention, of the router and of the top-k
experts in the factorised form; norms, activations, losses and the optimiser are not. The count is lower than what runs where
every expert is computed for every token, so a share of the peak by this count cannot be raised by wasted work.
"""

from geomoe.models import ModelConfig
from geomoe.models.config import NUM_PREFIX_TOKENS


def _block(tokens: int, width: int, kv_width: int, experts: int, hidden: int, top_k: int, shared: bool) -> int:
    """FLOPs of a block for one image of `tokens` tokens."""
    attention = width * (2 * width + 2 * kv_width) + 2 * tokens * width
    branches = top_k + 2 if shared else 3 * top_k
    return 2 * tokens * (attention + width * 2 * experts + branches * width * hidden)


def encoder_flops(config: ModelConfig, tokens: int | None = None) -> int:
    """FLOPs of the encoder for one image; `tokens` defaults to all 5 + P."""
    n = config.num_tokens if tokens is None else tokens
    kv_width = config.width // config.num_heads * config.num_groups
    total = 2 * (n - NUM_PREFIX_TOKENS) * config.in_channels * config.patch_size**2 * config.width
    for i in range(config.depth):
        experts, hidden = config.num_experts(i), config.expert_width(i)
        total += _block(n, config.width, kv_width, experts, hidden, config.top_k, config.share_projections)
    return total


def decoder_flops(config: ModelConfig) -> int:
    """FLOPs of the decoder for one image."""
    m, n = config.decoder_width, config.num_tokens
    kv_width = m // config.decoder_heads * config.decoder_groups
    total = 2 * (NUM_PREFIX_TOKENS + config.num_visible) * config.width * m
    total += 2 * config.num_patches * m * config.in_channels * config.patch_size**2
    block = _block(n, m, kv_width, config.decoder_experts, m // 2, config.top_k, config.share_projections)
    return total + config.decoder_depth * block


def training_flops(config: ModelConfig) -> int:
    """FLOPs of a training step for one image: three times the forward pass of the visible patches and of the decoder."""
    return 3 * (encoder_flops(config, NUM_PREFIX_TOKENS + config.num_visible) + decoder_flops(config))

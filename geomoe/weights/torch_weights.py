"""Published PyTorch weights <-> Flax parameters.

Layout of the published `model_state`: linear weights are (out, in), the patch projection is a convolution (D, C, p, p), a
projection shared by the experts of a layer stands once under every expert's key, and `patch_embed` repeats
`encoder.patch_proj`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from geomoe.metadata import FIELDS
from geomoe.models.config import NUM_PREFIX_TOKENS, SIZES, ModelConfig
from geomoe.weights import torch_format

_ENTRIES = tuple(f"{name}_proj" for name in FIELDS)


def load_torch_checkpoint(
    path: str | os.PathLike, num_heads: int | None = None, num_groups: int | None = None
) -> tuple[ModelConfig, dict]:
    """Reads published weights, without PyTorch and without running anything from the file.

    Args:
        path: a `.pth` file, `{"model_state": ...}` or a bare state dict.
        num_heads, num_groups: of the encoder's attention. The weights do not tell them; None takes those of the published
            size (or "tiny") with the same widths.

    Returns:
        The architecture, and the parameters {"encoder": ..., "decoder": ...} as float32 numpy arrays.

    Raises:
        FileNotFoundError: there is no such file.
        TorchFormatError: the file is damaged or holds more than plain tensors.
        ValueError: the weights are not a geo-moe-mae model, or of an unknown size without `num_heads` and `num_groups`.
    """
    checkpoint = torch_format.read(path)
    state = checkpoint.get("model_state", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or "encoder.pos_embed" not in state:
        raise ValueError(f"{path} holds no geo-moe-mae weights: no key 'encoder.pos_embed' in its 'model_state'")
    state = {name: np.asarray(value, np.float32) for name, value in state.items()}
    try:
        config = _infer_config(state, num_heads, num_groups)
        wanted = _torch_names(config)
        missing = [name for name in wanted if name not in state]
        extra = [name for name in state if name not in wanted and not name.startswith("patch_embed.")]
        if missing or extra:
            raise ValueError(f"missing keys {missing[:5]}, unknown keys {extra[:5]}")
        params: dict[str, Any] = {}
        for target, value in _flax_entries(config, state):
            node = params
            for part in target[:-1]:
                node = node.setdefault(part, {})
            node[target[-1]] = value
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return config, params


def save_torch_checkpoint(path: str | os.PathLike, params: Any, model_config: ModelConfig) -> None:
    """Writes parameters in the published format, `{"epoch", "model_state", "best_train_loss"}`.

    Args:
        path: the file to write; it appears whole or not at all.
        params: {"encoder": ..., "decoder": ...}, as from training or `load_torch_checkpoint`.
        model_config: the architecture, or its `to_dict()`.

    Raises:
        ValueError: the architecture is not one that the published format can hold.
    """
    config = model_config if isinstance(model_config, ModelConfig) else ModelConfig.from_dict(model_config)
    if not isinstance(params, dict) or set(params) - {"heads"} != {"encoder", "decoder"}:
        raise ValueError("params must be {'encoder': ..., 'decoder': ...}, the parameters of the whole autoencoder")
    if config.missing_metadata != "zero" or config.selection_bias:
        raise ValueError(
            "the published format holds no learned token for missing metadata (model.missing_metadata) and no selection bias "
            "(model.selection_bias); export StableHLO instead (geomoe.export.stablehlo.export_encoder)"
        )
    state = torch_state(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params), config)
    torch_format.write(path, {"epoch": 0, "model_state": state, "best_train_loss": float("inf")})


def torch_state(tree: dict, config: ModelConfig) -> dict[str, np.ndarray]:
    """A tree of float32 arrays in the parameters' structure (or their gradients) under PyTorch's names and in its shapes."""
    encoder, decoder = tree["encoder"], tree["decoder"]
    p, c = config.patch_size, config.in_channels
    state = {
        "mask_token": decoder["mask_token"],
        "decoder_pos_embed": decoder["pos_embed"],
        "encoder.pos_embed": encoder["pos_embed"],
        "encoder.cls_token": encoder["cls_token"],
        "encoder.patch_proj.weight": np.ascontiguousarray(encoder["patch_proj"]["kernel"].T).reshape(-1, c, p, p),
        "encoder.patch_proj.bias": encoder["patch_proj"]["bias"],
    }
    for name in _ENTRIES:
        state |= _torch_linear(f"encoder.{name}", encoder[name])
    for prefix, torch_prefix, depth in (
        ("encoder", "encoder.layers", config.depth),
        ("decoder", "decoder_layers", config.decoder_depth),
    ):
        for i in range(depth):
            state |= _torch_block(f"{torch_prefix}.{i}", tree[prefix][f"block_{i:02d}"])
    state |= _torch_norm("encoder.norm", encoder["norm"])
    state["patch_embed.weight"] = state["encoder.patch_proj.weight"]
    state["patch_embed.bias"] = state["encoder.patch_proj.bias"]
    state |= _torch_linear("decoder_embed", decoder["embed"])
    state |= _torch_norm("decoder_norm", decoder["norm"])
    state |= _torch_linear("decoder_pred", decoder["pred"])
    return state


def _torch_linear(name: str, params: dict) -> dict[str, np.ndarray]:
    return {f"{name}.weight": np.ascontiguousarray(params["kernel"].T), f"{name}.bias": params["bias"]}


def _torch_norm(name: str, params: dict) -> dict[str, np.ndarray]:
    return {f"{name}.weight": params["scale"], f"{name}.bias": params["bias"]}


def _torch_block(name: str, block: dict) -> dict[str, np.ndarray]:
    state = _torch_norm(f"{name}.norm1", block["norm1"])
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        state |= _torch_linear(f"{name}.attn.{part}", block["attention"][part])
    state |= _torch_norm(f"{name}.norm2", block["norm2"])
    return state | torch_mixture_state(f"{name}.moe.", block["moe"])


def torch_mixture_state(prefix: str, moe: dict) -> dict[str, np.ndarray]:
    """One mixture layer's parameters under PyTorch's names, each starting with `prefix`."""
    experts = moe["experts"]
    state: dict[str, np.ndarray] = {}
    shared = {
        part: _torch_linear(part, {"kernel": experts[name], "bias": experts[f"{name}_bias"]})
        for part, name in (("V", "v"), ("W2", "w2"))
        if experts[name].ndim == 2
    }
    for e in range(experts["w"].shape[0]):
        for part, name in (("W", "w"), ("V", "v"), ("W2", "w2")):
            entry = shared.get(part) or _torch_linear(part, {"kernel": experts[name][e], "bias": experts[f"{name}_bias"][e]})
            state |= {f"{prefix}experts.{e}.{key}": value for key, value in entry.items()}
    state |= _torch_linear(f"{prefix}gate.Wg", moe["router"]["clean"])
    return state | _torch_linear(f"{prefix}gate.Wnoise", moe["router"]["noise"])


def flax_mixture_params(state: dict[str, np.ndarray], prefix: str, share_projections: bool = True) -> dict:
    """The inverse of `torch_mixture_state`."""
    count = 1 + max(
        int(name[len(f"{prefix}experts.") :].split(".")[0]) for name in state if name.startswith(f"{prefix}experts.")
    )
    params: dict[str, Any] = {"experts": {}, "router": {}}
    for part, name in (("W", "w"), ("V", "v"), ("W2", "w2")):
        kernels = [state[f"{prefix}experts.{e}.{part}.weight"].T for e in range(count)]
        biases = [state[f"{prefix}experts.{e}.{part}.bias"] for e in range(count)]
        if share_projections and name != "w":
            params["experts"] |= {name: np.ascontiguousarray(kernels[0]), f"{name}_bias": biases[0]}
        else:
            params["experts"] |= {name: np.stack(kernels), f"{name}_bias": np.stack(biases)}
    for part, name in (("Wg", "clean"), ("Wnoise", "noise")):
        params["router"][name] = _flax_linear(state, f"{prefix}gate.{part}")
    return params


def _flax_linear(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    weight = state[f"{name}.weight"]
    return {"kernel": np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T), "bias": state[f"{name}.bias"]}


def _flax_norm(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def _flax_block(state: dict[str, np.ndarray], name: str, share_projections: bool) -> dict:
    return {
        "norm1": _flax_norm(state, f"{name}.norm1"),
        "attention": {part: _flax_linear(state, f"{name}.attn.{part}") for part in ("q_proj", "k_proj", "v_proj", "out_proj")},
        "norm2": _flax_norm(state, f"{name}.norm2"),
        "moe": flax_mixture_params(state, f"{name}.moe.", share_projections),
    }


def _flax_entries(config: ModelConfig, state: dict[str, np.ndarray]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Pairs of a path in the parameter tree and the subtree that belongs there."""
    yield ("encoder", "pos_embed"), state["encoder.pos_embed"]
    yield ("encoder", "cls_token"), state["encoder.cls_token"]
    for name in ("patch_proj", *_ENTRIES):
        yield ("encoder", name), _flax_linear(state, f"encoder.{name}")
    for i in range(config.depth):
        yield ("encoder", f"block_{i:02d}"), _flax_block(state, f"encoder.layers.{i}", config.share_projections)
    yield ("encoder", "norm"), _flax_norm(state, "encoder.norm")
    yield ("decoder", "mask_token"), state["mask_token"]
    yield ("decoder", "pos_embed"), state["decoder_pos_embed"]
    yield ("decoder", "embed"), _flax_linear(state, "decoder_embed")
    for i in range(config.decoder_depth):
        yield ("decoder", f"block_{i:02d}"), _flax_block(state, f"decoder_layers.{i}", config.share_projections)
    yield ("decoder", "norm"), _flax_norm(state, "decoder_norm")
    yield ("decoder", "pred"), _flax_linear(state, "decoder_pred")


def _infer_config(state: dict[str, np.ndarray], num_heads: int | None, num_groups: int | None) -> ModelConfig:
    """The architecture that the shapes of the weights tell, but for the number of heads."""
    width, in_channels, patch_size, _ = state["encoder.patch_proj.weight"].shape
    side = round((state["encoder.pos_embed"].shape[1] - NUM_PREFIX_TOKENS) ** 0.5)

    def count(pattern: str) -> int:
        return 1 + max((int(m[1]) for m in (re.match(pattern, name) for name in state) if m), default=-1)

    depth = count(r"encoder\.layers\.(\d+)\.")
    experts = [count(rf"encoder\.layers\.{i}\.moe\.experts\.(\d+)\.") for i in range(depth)]
    stages = [experts[i] for i in range(depth) if i == 0 or experts[i] != experts[i - 1]]
    if experts != [e for e in stages for _ in range(depth // len(stages))]:
        raise ValueError(f"the numbers of experts a layer, {experts}, are not those of equally deep stages")
    first, last = (state[f"encoder.layers.{i}.moe.experts.0.W.weight"].shape[0] for i in (0, depth - 1))
    widths = dict(width=width, depth=depth, expert_width_first=first, expert_width_last=last)
    if num_heads is None or num_groups is None:
        known = [size for size in SIZES.values() if widths.items() <= size.items()]
        if not known:
            raise ValueError(f"the weights are of no published size ({widths}); pass num_heads= and num_groups=")
        num_heads = num_heads or known[0]["num_heads"]
        num_groups = num_groups or known[0]["num_groups"]
    kv_width = state["encoder.layers.0.attn.k_proj.weight"].shape[0]
    if num_heads * kv_width != width * num_groups:
        raise ValueError(
            f"{num_heads} heads and {num_groups} groups do not fit keys of width {kv_width} in a model of width {width}"
        )
    layer = "encoder.layers.0.moe.experts"
    shared = all(
        np.array_equal(state[f"{layer}.0.{part}.weight"], state[f"{layer}.{e}.{part}.weight"])
        for part in ("V", "W2")
        for e in range(experts[0])
    )
    return ModelConfig(
        **widths,
        num_heads=num_heads,
        num_groups=num_groups,
        stage_experts=tuple(stages),
        img_size=side * patch_size,
        patch_size=patch_size,
        in_channels=in_channels,
        share_projections=shared,
        decoder_width=state["decoder_embed.weight"].shape[0],
        decoder_depth=count(r"decoder_layers\.(\d+)\."),
        decoder_experts=count(r"decoder_layers\.0\.moe\.experts\.(\d+)\."),
    )


def _torch_names(config: ModelConfig) -> set[str]:
    """The keys of the `model_state` of an architecture."""
    block = [f"{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")]
    block += [f"attn.{proj}.{part}" for proj in ("q_proj", "k_proj", "v_proj", "out_proj") for part in ("weight", "bias")]
    block += [f"moe.gate.{proj}.{part}" for proj in ("Wg", "Wnoise") for part in ("weight", "bias")]
    names = {"mask_token", "decoder_pos_embed", "encoder.pos_embed", "encoder.cls_token"}
    entries = [f"encoder.{name}" for name in ("patch_proj", *_ENTRIES, "norm")]
    names |= {
        f"{name}.{part}" for name in (*entries, "decoder_embed", "decoder_norm", "decoder_pred") for part in ("weight", "bias")
    }
    layers = [(f"encoder.layers.{i}", config.num_experts(i)) for i in range(config.depth)]
    layers += [(f"decoder_layers.{i}", config.decoder_experts) for i in range(config.decoder_depth)]
    for prefix, experts in layers:
        names |= {f"{prefix}.{name}" for name in block}
        names |= {
            f"{prefix}.moe.experts.{e}.{p}.{part}"
            for e in range(experts)
            for p in ("W", "V", "W2")
            for part in ("weight", "bias")
        }
    return names

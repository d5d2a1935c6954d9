"""Published PyTorch weights <-> Flax parameters.

Layout of the published `model_state`: linear weights are (out, in), the patch projection is a convolution (D, C, p, p), a
projection shared by the experts of a layer stands once under every expert's key, and `patch_embed` repeats
`encoder.patch_proj`.
"""

import dataclasses
import functools
import json
import operator
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from geomoe import compilation
from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import MAE, param_shapes
from geomoe.models.config import NUM_PREFIX_TOKENS, SIZES, ModelConfig
from geomoe.weights import torch_format

_EXTRA = "geomoe"  # key of what geomoe writes beside the weights
_STATES = ("model_state", "model_state_dict", "state_dict", "model")  # keys under which programs keep weights
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile and Lightning
_COMPUTES = ("top_k", "stage_experts", "share_projections", "decoder_heads", "decoder_groups")  # fields that decide on outputs
_ARRAYS = ("mask_token", "pos_embed", "cls_token")  # parameters that are no layer's
_BRANCHES = {"W": "w", "V": "v", "W2": "w2"}  # an expert's layers, in PyTorch and here
_GATES = {"Wg": "clean", "Wnoise": "noise"}  # the router's


def _modules(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Each layer's name in PyTorch, its path in the parameter tree, and how many experts it has: 0 but for mixtures."""
    yield "mask_token", ("decoder", "mask_token"), 0
    yield "decoder_pos_embed", ("decoder", "pos_embed"), 0
    for name in ("pos_embed", "cls_token", "patch_proj", *(f"{field}_proj" for field in FIELDS), "norm"):
        yield f"encoder.{name}", ("encoder", name), 0
    for name in ("embed", "norm", "pred"):
        yield f"decoder_{name}", ("decoder", name), 0
    blocks = [(f"encoder.layers.{i}", "encoder", i, config.num_experts(i)) for i in range(config.depth)]
    blocks += [(f"decoder_layers.{i}", "decoder", i, config.decoder_experts) for i in range(config.decoder_depth)]
    for block, part, i, experts in blocks:
        path = part, f"block_{i:02d}"
        for name in ("norm1", "norm2"):
            yield f"{block}.{name}", (*path, name), 0
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{block}.attn.{name}", (*path, "attention", name), 0
        yield f"{block}.moe.", (*path, "moe"), experts


class TorchCheckpoint(NamedTuple):
    """What a `.pth` file holds of a model."""

    config: ModelConfig
    params: dict[str, Any]  # {"encoder": ..., "decoder": ...}, float32 numpy arrays
    statistics: Statistics | None  # of the z-score, where geomoe wrote the file; published files have none
    normalised_targets: bool  # whether the model learned to reconstruct patches that were normalised each by itself


def _torch_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each key of the `model_state` of an architecture."""
    without_memory = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), param_shapes(MAE(config)))
    return {name: array.shape for name, array in torch_state(without_memory, config).items()}


def load_torch_checkpoint(
    path: str | os.PathLike, num_heads: int | None = None, num_groups: int | None = None, max_params: int = 100_000_000
) -> tuple[ModelConfig, dict]:
    """Read the architecture and the parameters of `read_torch_checkpoint`, which says more."""
    return read_torch_checkpoint(path, num_heads, num_groups, max_params)[:2]


@compilation.isolated
def read_torch_checkpoint(
    path: str | os.PathLike, num_heads: int | None = None, num_groups: int | None = None, max_params: int = 100_000_000
) -> TorchCheckpoint:
    """Read published weights, without PyTorch and without running anything from the file.

    Args:
        path: a `.pth` file, `{"model_state": ...}` or a bare state dict.
        num_heads, num_groups: of the encoder's attention. The weights do not tell them; None takes those of a file that geomoe
            wrote, else those of the published size (or "tiny") with the same widths.
        max_params: values of all tensors of the file; one that declares more is refused before they are allocated.

    Raises:
        FileNotFoundError: there is no such file.
        TorchFormatError: the file is damaged, holds more than plain tensors, or declares more values than `max_params`.
        ValueError: the weights are not a geo-moe-mae model, or of an unknown size without `num_heads` and `num_groups`; or a
            parameter has another shape than its model's, or is NaN or infinite.
    """
    checkpoint = torch_format.read(path, max_params)
    state = _state_of(checkpoint)
    if not isinstance(state, dict) or "encoder.pos_embed" not in state:
        raise ValueError(f"{path} holds no geo-moe-mae weights: no key 'encoder.pos_embed' in its 'model_state'")
    try:
        extra = _read_extra(checkpoint.get(_EXTRA))
        if strange := [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, np.ndarray))]:
            raise ValueError(f"the value of {str(strange[0])[:80]!r} is no tensor")
        if empty := [name for name, value in state.items() if not value.size]:
            raise ValueError(f"{empty[0]} is empty: its shape is {state[empty[0]].shape}")
        state = {name: np.asarray(value, np.float32) for name, value in state.items()}
        heads = {"num_heads": num_heads or extra.get("num_heads"), "num_groups": num_groups or extra.get("num_groups")}
        written = extra.get("model")
        if written and max(written.depth, written.decoder_depth, written.decoder_experts, *written.stage_experts) > len(state):
            raise ValueError(f"its entry {_EXTRA!r} is of a larger model than its weights")
        config = dataclasses.replace(written, **heads) if written else _infer_config(state, **heads)
        shapes = {name: shape for name, shape in _torch_shapes(config).items() if name in state or not _is_repeated(name)}
        missing = sorted(shapes.keys() - state.keys())
        unknown = [name for name in state if name not in shapes]
        if missing or unknown:
            raise ValueError(f"missing keys {missing[:5]}, unknown keys {unknown[:5]}")
        for name, shape in shapes.items():
            if state[name].shape != shape:
                raise ValueError(f"{name} has the shape {state[name].shape}; a model of these weights needs {shape}")
            if not np.isfinite(state[name]).all():
                raise ValueError(f"{name} holds NaN or infinite values: the weights are damaged, or their training diverged")
        for name in filter(_is_repeated, shapes):
            if not np.array_equal(state[name], state[original := f"encoder.patch_proj.{name.rsplit('.', 1)[1]}"]):
                raise ValueError(f"{name} and {original} differ, and are one parameter of the model")
        if (stats := extra["statistics"]) is not None and len(stats.mean) != config.in_channels:
            raise ValueError(f"it has statistics of {len(stats.mean)} bands, and the model takes {config.in_channels}")
        shared = config.share_projections
        flat = {path: _flax_params(state, name, path, shared) for name, path, _ in _modules(config)}
    except (KeyError, ValueError, IndexError, ArithmeticError) as error:
        text = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: {text}") from error
    params = flax.traverse_util.unflatten_dict(flat)
    return TorchCheckpoint(config, params, extra["statistics"], extra["normalised_targets"])


def _is_repeated(name: str) -> bool:
    """Whether a key repeats another one's value."""
    return name.startswith("patch_embed.")


def _state_of(checkpoint: Any) -> Any:
    """The weights of a checkpoint, under their own names: wrappers put a prefix before all of them."""
    if not isinstance(checkpoint, dict):
        return None
    state = next((checkpoint[key] for key in _STATES if key in checkpoint), checkpoint)
    while isinstance(state, dict) and state and "encoder.pos_embed" not in state:
        prefix = next((p for p in _PREFIXES if all(isinstance(name, str) and name.startswith(p) for name in state)), None)
        if prefix is None:
            return None
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _read_extra(extra: Any) -> dict[str, Any]:
    """Check what geomoe writes beside the weights: statistics, normalised_targets, and the architecture or its heads."""
    if extra is None:
        return {"statistics": None, "normalised_targets": False}
    try:
        statistics = Statistics.of(extra["statistics"])
        heads = {name: int(extra[name]) for name in ("num_heads", "num_groups")}
        if not all(heads.values()) or not isinstance(statistics.source, str):
            raise ValueError("a value has no meaning")
        model = ModelConfig.from_dict(json.loads(extra["model"])) if "model" in extra else None
        return {"statistics": statistics, "normalised_targets": bool(extra["normalised_targets"]), **heads, "model": model}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its entry {_EXTRA!r} is damaged ({type(error).__name__}: {error})") from None


def save_torch_checkpoint(
    path: str | os.PathLike,
    params: Any,
    model_config: ModelConfig,
    statistics: Statistics | None = None,
    normalised_targets: bool = False,
) -> None:
    """Write parameters in the published format, `{"epoch", "model_state", "best_train_loss"}`.

    With `statistics` there is an entry "geomoe" more, of plain numbers and text, which the published code does not read.

    Args:
        path: the file to write; it appears whole or not at all.
        params: {"encoder": ..., "decoder": ...}, as from training or `load_torch_checkpoint`.
        model_config: the architecture, or its `to_dict()`.
        statistics: of the z-score that the encoder expects; None leaves them, and what follows, out.
        normalised_targets: whether it learned to reconstruct patches that were normalised each by itself.

    Raises:
        ValueError: the decoder is missing, or the architecture is not one that the published format can hold.
    """
    config = model_config if isinstance(model_config, ModelConfig) else ModelConfig.from_dict(model_config)
    if isinstance(params, dict) and set(params) - {"heads"} == {"encoder"}:
        raise ValueError(
            f"{os.fspath(path)}: a .pth holds the whole autoencoder, and these weights are of an encoder alone, as the "
            "packaged ones and .safetensors are; write .safetensors, or convert the run directory that they come from"
        )
    if not isinstance(params, dict) or set(params) - {"heads"} != {"encoder", "decoder"}:
        raise ValueError("params must be {'encoder': ..., 'decoder': ...}, the parameters of the whole autoencoder")
    if config.missing_metadata != "zero" or config.selection_bias:
        raise ValueError(
            "the published format holds no learned token for missing metadata (model.missing_metadata) and no selection bias "
            "(model.selection_bias); export StableHLO instead (geomoe.export.stablehlo.export_encoder)"
        )
    state = torch_state(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params), config)
    tree = {"epoch": 0, "model_state": state, "best_train_loss": float("inf")}
    if statistics is not None:
        heads = {"num_heads": config.num_heads, "num_groups": config.num_groups}
        model = {"model": json.dumps(config.to_dict())}  # the weights do not tell all of it: top_k, the decoder's heads ...
        tree[_EXTRA] = {
            "statistics": {key: getattr(statistics, key) for key in statistics},
            "normalised_targets": normalised_targets,
            **heads,
            **model,
        }
    elif unsaid := _unsaid(state, config):
        raise ValueError(
            f"{os.fspath(path)}: the weights do not say {unsaid} of the model; give the statistics as well, with which "
            "geomoe writes the architecture, or write .safetensors"
        )
    torch_format.write(path, tree)


def _unsaid(state: dict[str, np.ndarray], config: ModelConfig) -> str:
    """What of an encoder's architecture a reader of the weights alone would take for something else, in text."""
    try:
        found = _infer_config(state, config.num_heads, config.num_groups).to_dict()
    except ValueError as error:
        return f"the architecture ({error})"
    return ", ".join(
        f"{name} = {value}" for name, value in config.to_dict().items() if name in _COMPUTES and found[name] != value
    )


def torch_state(tree: dict, config: ModelConfig) -> dict[str, np.ndarray]:
    """A tree of float32 arrays in the parameters' structure (or their gradients) under PyTorch's names and in its shapes."""
    state: dict[str, np.ndarray] = {}
    for name, path, _ in _modules(config):
        node: Any = functools.reduce(operator.getitem, path, tree)
        if path[-1] in _ARRAYS:
            state[name] = node
        else:
            state |= torch_mixture_state(name, node) if path[-1] == "moe" else _torch_layer(name, node)
    convolution = (-1, config.in_channels, config.patch_size, config.patch_size)
    state["encoder.patch_proj.weight"] = state["encoder.patch_proj.weight"].reshape(convolution)
    return state | {f"patch_embed.{part}": state[f"encoder.patch_proj.{part}"] for part in ("weight", "bias")}


def _torch_layer(name: str, params: dict) -> dict[str, np.ndarray]:
    """A linear layer or a norm under PyTorch's names."""
    weight = params["scale"] if "scale" in params else params["kernel"].T
    return {f"{name}.weight": weight, f"{name}.bias": params["bias"]}


def _flax_layer(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The inverse of `_torch_layer`."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    if weight.ndim == 1:
        return {"scale": weight, "bias": bias}
    return {"kernel": np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T), "bias": bias}


def torch_mixture_state(prefix: str, moe: dict) -> dict[str, np.ndarray]:
    """One mixture layer's parameters under PyTorch's names, each starting with `prefix`."""
    experts = moe["experts"]
    state: dict[str, np.ndarray] = {}
    for part, name in _BRANCHES.items():
        kernel, bias, count = experts[name], experts[f"{name}_bias"], len(experts["w"])
        if kernel.ndim == 2:
            layers = [_torch_layer(part, {"kernel": kernel, "bias": bias})] * count
        else:
            layers = [_torch_layer(part, {"kernel": kernel[e], "bias": bias[e]}) for e in range(count)]
        state |= {f"{prefix}experts.{e}.{key}": value for e, layer in enumerate(layers) for key, value in layer.items()}
    for part, name in _GATES.items():
        state |= _torch_layer(f"{prefix}gate.{part}", moe["router"][name])
    return state


def flax_mixture_params(state: dict[str, np.ndarray], prefix: str, share_projections: bool = True) -> dict:
    """The inverse of `torch_mixture_state`."""
    count = _count(state, rf"{re.escape(prefix)}experts\.(\d+)\.")
    experts: dict[str, np.ndarray] = {}
    for part, name in _BRANCHES.items():
        layers = [_flax_layer(state, f"{prefix}experts.{e}.{part}") for e in range(count)]
        for key, target in (("kernel", name), ("bias", f"{name}_bias")):
            shared = share_projections and name != "w"
            experts[target] = layers[0][key] if shared else np.stack([layer[key] for layer in layers])
    return {"experts": experts, "router": {name: _flax_layer(state, f"{prefix}gate.{part}") for part, name in _GATES.items()}}


def _flax_params(state: dict[str, np.ndarray], name: str, path: tuple[str, ...], share_projections: bool) -> Any:
    if path[-1] in _ARRAYS:
        return state[name]
    return flax_mixture_params(state, name, share_projections) if path[-1] == "moe" else _flax_layer(state, name)


def _count(state: dict[str, np.ndarray], pattern: str) -> int:
    """How many of a kind the names tell, which number them from 0; ValueError where numbers are left out."""
    numbers = {m[1] for m in (re.match(pattern, name) for name in state) if m}
    if absent := {str(i) for i in range(len(numbers))} - numbers:
        plain = re.sub(r"\\(.)", r"\1", pattern).replace("(d+)", min(absent, key=int)).rstrip(".")
        raise ValueError(f"there is no {plain}, but others of its kind with higher numbers")
    return len(numbers)


def _infer_config(state: dict[str, np.ndarray], num_heads: int | None, num_groups: int | None) -> ModelConfig:
    """The architecture that the shapes of the weights tell, but for the number of heads."""
    width, in_channels, patch_size, _ = state["encoder.patch_proj.weight"].shape
    side = round((state["encoder.pos_embed"].shape[1] - NUM_PREFIX_TOKENS) ** 0.5)
    depth = _count(state, r"encoder\.layers\.(\d+)\.")
    experts = [_count(state, rf"encoder\.layers\.{i}\.moe\.experts\.(\d+)\.") for i in range(depth)]
    stages = [experts[i] for i in range(depth) if i == 0 or experts[i] != experts[i - 1]]
    if experts != [e for e in stages for _ in range(depth // len(stages))]:
        raise ValueError(f"the numbers of experts a layer, {experts}, are not those of equally deep stages")
    first, last = (state[f"encoder.layers.{i}.moe.experts.0.W.weight"].shape[0] for i in (0, depth - 1))
    widths = dict(width=width, depth=depth, expert_width_first=first, expert_width_last=last)
    if num_heads is None or num_groups is None:
        size = next((size for size in SIZES.values() if widths.items() <= size.items()), None)
        if size is None:
            raise ValueError(f"the weights are of no published size ({widths}); pass num_heads= and num_groups=")
        num_heads, num_groups = num_heads or size["num_heads"], num_groups or size["num_groups"]
    kv_width = state["encoder.layers.0.attn.k_proj.weight"].shape[0]
    if num_heads * kv_width != width * num_groups:
        raise ValueError(
            f"{num_heads} heads and {num_groups} groups do not fit keys of width {kv_width} in a model of width {width}"
        )
    of_expert = [(name, m) for name in state if (m := re.fullmatch(r"(.*\.experts\.)\d+(\.(?:V|W2)\..*)", name))]
    shared = all(np.array_equal(state[name], state[f"{m[1]}0{m[2]}"]) for name, m in of_expert)
    attention = dict(num_heads=num_heads, num_groups=num_groups)
    image = dict(img_size=side * patch_size, patch_size=patch_size, in_channels=in_channels)
    decoder = dict(
        decoder_width=state["decoder_embed.weight"].shape[0],
        decoder_depth=_count(state, r"decoder_layers\.(\d+)\."),
        decoder_experts=_count(state, r"decoder_layers\.0\.moe\.experts\.(\d+)\."),
    )
    fields: dict[str, Any] = {**widths, **attention, **image, **decoder}
    return ModelConfig(**fields, stage_experts=tuple(stages), share_projections=shared)

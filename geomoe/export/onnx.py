"""The encoder as an ONNX graph: a file for ONNX Runtime and whatever else reads ONNX, without JAX and this package.

`geomoe.export.files` says what its function takes and gives. The graph is that of `geomoe.models`, written node by node, in
float32 whatever the type of the model's activations; every expert is computed for every token, and gated.

Axes: B images, S pixels of a side, p pixels of a patch's side, C bands, P patches, N tokens (4 metadata, CLS, patches), D
width, H query heads, G groups (key/value heads), R = H / G query heads a group, d head width, E experts, K chosen experts of a
token, F hidden width of an expert.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

try:
    import onnx
    import onnx.checker
    import onnx.helper
    import onnx.numpy_helper
except ImportError as error:
    raise ImportError("geomoe.export.onnx needs ONNX: pip install onnx") from error

from geomoe import landsat
from geomoe.export.files import function_facts, write_function
from geomoe.landsat import Statistics
from geomoe.metadata import FIELDS
from geomoe.models import ModelConfig
from geomoe.models.config import NUM_METADATA_TOKENS, NUM_PREFIX_TOKENS
from geomoe.models.kernels import LAYER_NORM_EPSILON
from geomoe.models.pooling import TOKENS, Pool, check_pool
from geomoe.pretrained import PretrainedEncoder
from geomoe.version import __version__

OPSET = 18
IR_VERSION = 8  # that of opset 18's release, so that runtimes of its time read the file
_UNSEEN = np.float32(-1e30)  # added to the logit of a key that is not looked at; its softmax is 0

Params = Mapping[str, Any]


class _Value(NamedTuple):
    """A tensor of a graph. Operators add a node; the other side may be an array or a number, which becomes a constant."""

    graph: _Graph
    name: str

    def __add__(self, other: Any) -> _Value:
        return self.graph.Add(self, other)

    def __sub__(self, other: Any) -> _Value:
        return self.graph.Sub(self, other)

    def __mul__(self, other: Any) -> _Value:
        return self.graph.Mul(self, other)

    def __truediv__(self, other: Any) -> _Value:
        return self.graph.Div(self, other)

    def __matmul__(self, other: Any) -> _Value:
        return self.graph.MatMul(self, other)

    def reshape(self, *shape: int) -> _Value:
        """A 0 keeps the dimension that is there."""
        return self.graph.Reshape(self, np.array(shape, np.int64))

    def transpose(self, *axes: int) -> _Value:
        return self.graph.Transpose(self, perm=axes)

    def cast(self, dtype: int) -> _Value:
        return self.graph.Cast(self, to=dtype)

    def sum(self, axis: int, keepdims: bool = False) -> _Value:
        return self.graph.ReduceSum(self, np.array([axis], np.int64), keepdims=int(keepdims))

    def tokens(self, start: int, end: int | None = None) -> _Value:
        """A slice of axis 1."""
        bounds = (start, np.iinfo(np.int64).max if end is None else end, 1)
        return self.graph.Slice(self, *(np.array([bound], np.int64) for bound in bounds))


class _Graph:
    """Nodes and constants; `graph.MatMul(a, b, **attributes)` adds a node of that operator and gives its (first) output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[Any, ...], onnx.TensorProto] = {}

    def value(self, x: Any) -> _Value:
        """A value as it is; an array, or a number (which is float32), as a constant."""
        if isinstance(x, _Value):
            return x
        array = np.asarray(x, None if isinstance(x, np.ndarray) else np.float32)
        key = array.shape, array.dtype.str, array.tobytes()
        if key not in self.constants:
            self.constants[key] = onnx.numpy_helper.from_array(array, f"constant_{len(self.constants)}")
        return _Value(self, self.constants[key].name)

    def node(self, op: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> list[_Value]:
        """Add a node of operator `op` and give its outputs."""
        names = [f"{op}_{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, [self.value(x).name for x in inputs], names, names[0], **attributes))
        return [_Value(self, name) for name in names]

    def __getattr__(self, op: str) -> Callable[..., _Value]:
        if not op[0].isupper():
            raise AttributeError(op)
        return lambda *inputs, **attributes: self.node(op, *inputs, **attributes)[0]


class _Encoded(NamedTuple):
    """What the poolings are made from."""

    layers: list[_Value]  # (B, N, D) of each block, its output
    present: _Value  # (B, N, 1) float32, 1 for the tokens that count, 0 for those of patches without data
    some: _Value  # (B, 1) bool, whether any pixel of an image holds data
    metadata: list[_Value]  # (B, 2) each
    config: ModelConfig


def export_onnx(encoder: PretrainedEncoder, path: str | os.PathLike[str], *, pool: Pool = "mean") -> dict[str, Any]:
    """Write PATH (the graph, checked) and PATH.json (what it is).

    Args:
        pool: as for `PretrainedEncoder.embed`.

    Returns:
        The facts in PATH.json: shapes, bands, unit, normalisation, opset, bytes. They stand in the model's metadata as well,
        under "geomoe".

    Raises:
        ImportError: onnx is not installed.
        ValueError: an unknown pool, or one that has no ONNX form (added to `geomoe.models.pooling.POOLINGS`).

    Example:
        session = onnxruntime.InferenceSession("encoder.onnx")
        (z,) = session.run(None, {"images": images, "week": week, "hour": hour, "lat": lat, "lon": lon})
    """
    names = check_pool(pool)
    for name in names:
        if name not in _POOLINGS:
            raise ValueError(f"pool = {pool!r}: {name!r} has no ONNX form; there are {', '.join(_POOLINGS)}")
    facts = function_facts(encoder, pool) | {"opset": OPSET, "dtype": "float32", "onnx_version": onnx.__version__}
    graph = _Graph()
    images, *metadata = (_Value(graph, name) for name in facts["inputs"])
    params = _numpy(encoder.params["encoder"])
    encoded = _encode(graph, encoder.config, params, encoder.statistics, images, metadata)
    joined = graph.Concat(*(_POOLINGS[name](graph, encoded) for name in names), axis=-1)
    some = encoded.some.reshape(0, 1, 1) if TOKENS in names else encoded.some
    last = [some.name, joined.name, graph.value(np.nan).name]
    graph.nodes.append(onnx.helper.make_node("Where", last, ["embeddings"], "embeddings"))
    tensor = lambda name, shape: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "geomoe_encoder",
            [tensor(name, shape) for name, shape in facts["inputs"].items()],
            [tensor("embeddings", facts["output"])],
            list(graph.constants.values()),
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="geomoe",
        producer_version=__version__,
    )
    onnx.helper.set_model_props(model, {"geomoe": json.dumps(facts)})
    onnx.checker.check_model(model, full_check=True)
    return write_function(path, model.SerializeToString(), facts)


def _numpy(tree: Any) -> Any:
    return {key: _numpy(leaf) for key, leaf in tree.items()} if isinstance(tree, Mapping) else np.asarray(tree, np.float32)


def _encode(
    g: _Graph, cfg: ModelConfig, params: Params, statistics: Statistics, images: _Value, metadata: list[_Value]
) -> _Encoded:
    """`geomoe.models.encoder.Encoder` on digital numbers."""
    patches, holds_half, some = _patches(g, cfg, statistics, images)
    # (B, N, 1): the tokens of metadata and CLS are always there.
    present = g.Pad(holds_half, np.array([0, NUM_PREFIX_TOKENS, 0, 0, 0, 0], np.int64), np.float32(1))
    position = params["pos_embed"]
    tokens = []
    for i, (name, value) in enumerate(zip(FIELDS, metadata)):
        token = _linear(value, params[f"{name}_proj"])
        if cfg.missing_metadata == "learned":
            unknown = g.Equal(g.Abs(value).sum(-1, keepdims=True), 0)
            token = g.Where(unknown, params["missing_metadata"][:, i], token)
        tokens.append(token.reshape(0, 1, cfg.width) + position[:, i : i + 1])
    cls = params["cls_token"] + position[:, NUM_METADATA_TOKENS:NUM_PREFIX_TOKENS]
    shape = g.Concat(g.Shape(images, start=0, end=1), np.array([1, cfg.width], np.int64), axis=0)
    tokens.append(g.Expand(cls, shape))
    tokens.append(_linear(patches, params["patch_proj"]) + position[:, NUM_PREFIX_TOKENS:])
    x = g.Concat(*tokens, axis=1)

    unseen = (g.value(1) - present).reshape(0, 1, 1, cfg.num_tokens) * _UNSEEN
    layers = []
    for i in range(cfg.depth):
        block = params[f"block_{i:02d}"]
        x = x + _attention(g, cfg, block["attention"], _layer_norm(g, x, block["norm1"]), unseen)
        x = x + _mixture(g, cfg, block["moe"], _layer_norm(g, x, block["norm2"]))
        layers.append(x)
    return _Encoded(layers, present, some, metadata, cfg)


def _patches(g: _Graph, cfg: ModelConfig, statistics: Statistics, images: _Value) -> tuple[_Value, _Value, _Value]:
    """(B, S, S, C) digital numbers -> (B, P, C * p * p) z-scores, (B, P, 1) float32, 1 where half of them hold data, `some`.

    Pixels without data take the mean of those of their patch that hold some.
    """
    p, side, bands = cfg.patch_size, cfg.img_size // cfg.patch_size, cfg.in_channels
    above = g.Greater(images, float(landsat.NODATA)).cast(onnx.TensorProto.FLOAT)  # 0 for NaN as well
    holds = g.ReduceMin(above, np.array([-1], np.int64), keepdims=1)  # (B, S, S, 1): in all bands

    def patchify(pixels: _Value, channels: int) -> _Value:
        x = pixels.reshape(0, side, p, side, p, channels).transpose(0, 1, 3, 5, 2, 4)
        return x.reshape(0, cfg.num_patches, channels, p * p)

    mean, std = (np.asarray(values, np.float32) for values in (statistics.mean, statistics.std))
    if statistics.scale == landsat.LOG:
        reflectance = images * np.float32(landsat.REFLECTANCE_SCALE) + np.float32(landsat.REFLECTANCE_OFFSET)
        images = g.Log(g.Max(reflectance + np.float32(landsat.LOG_SHIFT), np.float32(landsat.LOG_LEAST)))
    z = patchify(g.Where(holds.cast(onnx.TensorProto.BOOL), (images - mean) / std, 0), bands)
    holds = patchify(holds, 1)
    count = holds.sum(-1, keepdims=True)  # (B, P, 1, 1)
    filled = g.Where(holds.cast(onnx.TensorProto.BOOL), z, z.sum(-1, keepdims=True) / g.Max(count, 1))
    holds_half = g.GreaterOrEqual(count, p * p / 2).cast(onnx.TensorProto.FLOAT)
    some = g.Greater(g.ReduceMax(count, np.array([1], np.int64), keepdims=1), 0).reshape(0, 1)
    return filled.reshape(0, cfg.num_patches, bands * p * p), holds_half.reshape(0, cfg.num_patches, 1), some


def _linear(x: _Value, params: Params) -> _Value:
    return x @ params["kernel"] + params["bias"]


def _layer_norm(g: _Graph, x: _Value, params: Params) -> _Value:
    return g.LayerNormalization(x, params["scale"], params["bias"], axis=-1, epsilon=LAYER_NORM_EPSILON)


def _attention(g: _Graph, cfg: ModelConfig, params: Params, x: _Value, unseen: _Value) -> _Value:
    """`geomoe.models.attention.Attention`: (B, N, D) -> (B, N, D). Query head h = r * G + g reads key/value head g."""
    n, d, groups = cfg.num_tokens, cfg.width // cfg.num_heads, cfg.num_groups
    repeats = cfg.num_heads // groups
    q = _linear(x, params["q_proj"]) * np.float32(d**-0.5)
    q = q.reshape(0, n, repeats, groups, d).transpose(0, 3, 2, 1, 4).reshape(0, groups, repeats * n, d)
    k = _linear(x, params["k_proj"]).reshape(0, n, groups, d).transpose(0, 2, 3, 1)  # (B, G, d, N)
    v = _linear(x, params["v_proj"]).reshape(0, n, groups, d).transpose(0, 2, 1, 3)  # (B, G, N, d)
    out = g.Softmax(q @ k + unseen, axis=-1) @ v  # (B, G, R * N, d)
    out = out.reshape(0, groups, repeats, n, d).transpose(0, 3, 2, 1, 4).reshape(0, n, cfg.width)
    return _linear(out, params["out_proj"])


def _mixture(g: _Graph, cfg: ModelConfig, params: Params, x: _Value) -> _Value:
    """`geomoe.models.block.MixtureOfExperts`: (B, N, D) -> (B, N, D)."""
    experts = params["experts"]
    num_experts, width, hidden = experts["w"].shape  # E, D, F
    gates = _gates(g, cfg, params["router"], x)

    def side_by_side(kernel: np.ndarray, bias: np.ndarray) -> _Value:
        """Each expert's linear layer as one product: (B, N, D) -> (B, N, E, F)."""
        y = x @ kernel.transpose(1, 0, 2).reshape(width, -1) + bias.reshape(-1)
        return y.reshape(0, 0, num_experts, hidden)

    inner = side_by_side(experts["w"], experts["w_bias"])
    inner = inner * g.Sigmoid(inner) * gates.reshape(0, 0, num_experts, 1)
    if cfg.share_projections:
        return (inner.sum(2) * (x @ experts["v"] + experts["v_bias"])) @ experts["w2"] + experts["w2_bias"]
    inner = (inner * side_by_side(experts["v"], experts["v_bias"])).reshape(0, 0, num_experts * hidden)
    return inner @ experts["w2"].reshape(-1, width) + gates @ experts["w2_bias"]


def _gates(g: _Graph, cfg: ModelConfig, params: Params, x: _Value) -> _Value:
    """`geomoe.models.router.route` without noise: (B, N, D) -> (B, N, E). TopK gives ties to the lower index, as JAX does."""
    logits = _linear(x, params["clean"])
    ranked = logits + params["selection_bias"] if cfg.selection_bias else logits
    _, chosen = g.node("TopK", ranked, np.array([cfg.top_k], np.int64), outputs=2, axis=-1)  # (B, N, K)
    weights = g.Softmax(g.GatherElements(logits, chosen, axis=-1), axis=-1)
    return g.ScatterElements(logits * 0, chosen, weights, axis=-1)


def _mean(g: _Graph, tokens: _Value, present: _Value) -> _Value:
    """(B, T, D) -> (B, D): the mean over the tokens that are present, 0 where none is."""
    return (tokens * present).sum(1) / g.Max(present.sum(1), 1)


def _unit_mean(g: _Graph, out: _Encoded) -> _Value:
    mean = _mean(g, out.layers[-1], out.present)
    return mean * (g.value(out.config.width**0.5) / (g.Sqrt((mean * mean).sum(-1, keepdims=True)) + 1e-8))


def _patch_std(g: _Graph, out: _Encoded) -> _Value:
    tokens, present = out.layers[-1].tokens(NUM_PREFIX_TOKENS), out.present.tokens(NUM_PREFIX_TOKENS)
    off = tokens - _mean(g, tokens, present).reshape(0, 1, out.config.width)
    return g.Sqrt(_mean(g, off * off, present))


def _stages(g: _Graph, out: _Encoded) -> _Value:
    depth = out.config.depth // len(out.config.stage_experts)
    return g.Concat(*(_mean(g, layer, out.present) for layer in out.layers[depth - 1 :: depth]), axis=-1)


# Those of `geomoe.models.pooling`: (B, width) each, and "tokens" (B, N, D).
_POOLINGS: dict[str, Callable[[_Graph, _Encoded], _Value]] = {
    "mean": lambda g, out: _mean(g, out.layers[-1], out.present),
    "unit_mean": _unit_mean,
    "patch_mean": lambda g, out: _mean(g, out.layers[-1].tokens(NUM_PREFIX_TOKENS), out.present.tokens(NUM_PREFIX_TOKENS)),
    "patch_std": _patch_std,
    "cls": lambda g, out: out.layers[-1].tokens(NUM_METADATA_TOKENS, NUM_PREFIX_TOKENS).reshape(0, out.config.width),
    "metadata_tokens": lambda g, out: out.layers[-1].tokens(0, NUM_METADATA_TOKENS).sum(1) / NUM_METADATA_TOKENS,
    "stages": _stages,
    "layer_mean": lambda g, out: g.Sum(*(_mean(g, layer, out.present) for layer in out.layers)) / out.config.depth,
    "metadata": lambda g, out: g.Concat(*out.metadata, axis=-1),
    TOKENS: lambda g, out: g.Where(out.present.cast(onnx.TensorProto.BOOL), out.layers[-1], np.nan),
}

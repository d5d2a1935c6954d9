"""The encoder and its mean embedding in NumPy alone, read from a `.safetensors` file: what the weights mean, without JAX.

It is written from the model's definition (docs/model.md), not from the code of `geomoe.models`, in float64.
"""

import datetime
import json
import struct

import numpy as np


def read_safetensors(path):
    """(facts, tensors): the JSON of the key "geomoe", and name -> float64 array."""
    with open(path, "rb") as file:
        blob = file.read()
    size = struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8 : 8 + size])
    facts = json.loads(header.pop("__metadata__")["geomoe"])
    kinds = {"F16": np.float16, "F32": np.float32}
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(blob[start:end], kinds[entry["dtype"]]).reshape(entry["shape"]).astype(np.float64)
    return facts, tensors


def encode_metadata(lat, lon, time):
    """Degrees and ISO text, None where unknown -> four (2,) [sin, cos] pairs: week, hour, latitude, longitude."""
    pair = lambda angle: np.array([np.sin(angle), np.cos(angle)])
    unknown, week, hour = np.zeros(2), np.zeros(2), np.zeros(2)
    if time is not None:
        date = datetime.datetime.fromisoformat(time)
        week, hour = pair(2 * np.pi * date.isocalendar().week / 52), pair(2 * np.pi * date.hour / 24)
    degrees = lambda value: unknown if value is None else pair(np.radians(value))
    return week, hour, degrees(lat), degrees(lon)


class Reference:
    """An encoder's file, and `embed`, image by image."""

    def __init__(self, path):
        self.facts, self.tensors = read_safetensors(path)
        self.model = self.facts["model"]

    def linear(self, name, x):
        return x @ self.tensors[f"{name}/kernel"] + self.tensors[f"{name}/bias"]

    def norm(self, name, x):
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * self.tensors[f"{name}/scale"] + self.tensors[f"{name}/bias"]

    def attention(self, name, x, heard):
        """Query head h reads key/value head h mod groups; no token looks at one that is not heard."""
        heads, groups, tokens = self.model["num_heads"], self.model["num_groups"], len(x)
        width = x.shape[1] // heads
        q = self.linear(f"{name}/q_proj", x).reshape(tokens, heads, width)
        k, v = (self.linear(f"{name}/{part}_proj", x).reshape(tokens, groups, width) for part in "kv")
        out = []
        for head in range(heads):
            logits = q[:, head] @ k[:, head % groups].T / np.sqrt(width)
            logits[:, ~heard] = -np.inf
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            out.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, head % groups])
        return self.linear(f"{name}/out_proj", np.concatenate(out, axis=1))

    def mixture(self, name, x):
        """The gated top k of SwiGLU experts, each W2 (silu(W_e x) * V x), with V and W2 shared."""
        t, k = self.tensors, self.model["top_k"]
        logits = self.linear(f"{name}/router/clean", x)
        out = np.zeros_like(x)
        for row, token in enumerate(x):
            chosen = np.argsort(-logits[row], kind="stable")[:k]
            gates = np.exp(logits[row, chosen] - logits[row, chosen].max())
            for gate, expert in zip(gates / gates.sum(), chosen):
                hidden = token @ t[f"{name}/experts/w"][expert] + t[f"{name}/experts/w_bias"][expert]
                hidden = hidden / (1 + np.exp(-hidden)) * (token @ t[f"{name}/experts/v"] + t[f"{name}/experts/v_bias"])
                out[row] += gate * (hidden @ t[f"{name}/experts/w2"] + t[f"{name}/experts/w2_bias"])
        return out

    def embed(self, image, lat=None, lon=None, time=None):
        """(S, S, 7) Collection 2 digital numbers, 0 where there are no data -> (D,), the mean token."""
        m, size = self.model, self.model["patch_size"]
        side = m["img_size"] // size
        image = image.astype(np.float64)
        valid = (image != 0).all(axis=-1)
        statistics = self.facts["statistics"]
        scaled = np.log(np.maximum(image * 0.0000275 - 0.2 + 0.1, 0.02)) if statistics.get("scale") == "log" else image
        z = (scaled - np.array(statistics["mean"])) / np.array(statistics["std"])
        patches, present = [], []
        for row in range(side):
            for column in range(side):
                window = slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
                holds, values = valid[window], z[window]
                fill = values[holds].mean(axis=0) if holds.any() else np.zeros(z.shape[-1])
                patches.append(np.where(holds[..., None], values, fill).transpose(2, 0, 1).reshape(-1))
                present.append(holds.mean() >= 0.5)
        position = self.tensors["encoder/pos_embed"][0]
        tokens = []
        for i, (name, pair) in enumerate(zip(("week", "hour", "lat", "lon"), encode_metadata(lat, lon, time))):
            token = self.linear(f"encoder/{name}_proj", pair)
            if m["missing_metadata"] == "learned" and not pair.any():
                token = self.tensors["encoder/missing_metadata"][0, i]
            tokens.append(token)
        tokens.append(self.tensors["encoder/cls_token"][0, 0])
        x = np.concatenate([tokens, self.linear("encoder/patch_proj", np.stack(patches))]) + position
        heard = np.concatenate([np.ones(5, bool), present])
        for layer in range(m["depth"]):
            block = f"encoder/block_{layer:02d}"
            x = x + self.attention(f"{block}/attention", self.norm(f"{block}/norm1", x), heard)
            x = x + self.mixture(f"{block}/moe", self.norm(f"{block}/norm2", x))
        return x[heard].mean(axis=0)

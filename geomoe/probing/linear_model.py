"""A fitted linear model, and its file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geomoe.data.arrays import as_numpy
from geomoe.files import atomic_path
from geomoe.models.pooling import parse_pool
from geomoe.probing.metrics import check_finite, check_unmasked

if TYPE_CHECKING:
    from geomoe.pretrained import PretrainedEncoder


@dataclasses.dataclass(frozen=True)
class LinearModel:
    """A fitted linear classifier or regression on features: plain arrays."""

    coef: np.ndarray  # (D, K), for unscaled features (any standardisation is folded in)
    intercept: np.ndarray  # (K,)
    task: str  # "multiclass", "multilabel" or "regression"
    C: float  # inverse L2 strength
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # plain values: class names, encoder, pool, input ...

    def decision(self, features: np.ndarray) -> np.ndarray:
        """Compute logits (or regression values): (N, D) -> (N, K)."""
        check_unmasked("features", features)
        features = np.asarray(as_numpy(features), np.float32)
        if features.ndim != 2 or features.shape[1] != len(self.coef):
            raise ValueError(f"features must be (N, {len(self.coef)}), got {features.shape}")
        check_finite("features", features, "leave these rows out: what was not embedded, having no data, has no class")
        return features @ self.coef + self.intercept

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Compute probabilities, softmax or logistic: (N, D) -> (N, K).

        Raises:
            ValueError: the model is a regression.
        """
        logits = self.decision(features).astype(np.float64)
        if self.task == "multiclass":
            shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
            return shifted / shifted.sum(axis=1, keepdims=True)
        if self.task == "multilabel":
            return np.exp(-np.logaddexp(0, -logits))
        raise ValueError("a regression has no probabilities; take decision(features)")

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predict class indices (N,) for multi-class, 0/1 (N, K) for multi-label, values (N, K) for regression models."""
        logits = self.decision(features)
        if self.task == "multiclass":
            return logits.argmax(axis=1)
        return (logits > 0).astype(np.int32) if self.task == "multilabel" else logits

    def predict_images(self, encoder: PretrainedEncoder, images: np.ndarray, **options: Any) -> np.ndarray:
        """Embed images and predict. `options` as for `PretrainedEncoder.embed`; pool, nodata and statistics are the fit's.

        Raises:
            ValueError: the encoder is not that of the fit, where `info` says which it was; an image has no data; or the images
                are of another unit than the statistics of the fit, where these are not the encoder's.
        """
        of_encoder = self.info.get("encoder_sha256")
        if of_encoder is not None and of_encoder != encoder.fingerprint:
            other = f"another encoder ({self.info.get('encoder', 'unnamed')}, {of_encoder[:12]})"
            this = f"{encoder.source} ({encoder.fingerprint[:12]})"
            raise ValueError(f"the probe was fitted on embeddings of {other} than {this}; load that one, or fit it anew")
        pool, record = self.info.get("pool", "mean"), self.info.get("input", {})
        options.setdefault("pool", parse_pool(pool) if isinstance(pool, str) else tuple(pool))
        if "nodata" in record and not {"spec", "normalized", "valid"} & options.keys():
            options.setdefault("nodata", record["nodata"])
        given = options["spec"].statistics if "spec" in options else options.get("statistics")
        fitted = None if given is not None or options.get("normalized") else self._own_statistics(encoder)
        if fitted is not None and "spec" in options:
            options["spec"] = dataclasses.replace(options["spec"], statistics=fitted)
        elif fitted is not None:
            options["statistics"] = fitted
        z, made = encoder.embed(images, return_record=True, **options)
        if fitted is not None and made["unit"] != record["statistics_unit"]:
            of = f"the probe was fitted on images z-scored by {fitted['source']}, in {record['statistics_unit']}"
            raise ValueError(f"{of}; these are {made['unit']}: convert them, or give statistics= in their unit")
        return self.predict(z)

    def _own_statistics(self, encoder: PretrainedEncoder) -> dict[str, Any] | None:
        """The statistics that the images of the fit were z-scored by; None where they are the encoder's, or not said.

        Raises:
            ValueError: the images were z-scored by several.
        """
        fitted = self.info.get("input", {}).get("statistics")
        if isinstance(fitted, list):
            raise ValueError("the probe was fitted on scenes each z-scored by its own statistics; give statistics=")
        return None if fitted in (None, dict(encoder.statistics)) else fitted

    def save(self, path: str | os.PathLike) -> None:
        """Write arrays and JSON into one `.npz` or `.safetensors` file, which appears whole or not at all.

        Raises:
            ValueError: the path ends in neither.
        """
        path = os.fspath(path)
        facts = {"task": self.task, "C": self.C, "info": dict(self.info), "format": "geomoe linear model 1"}
        text = json.dumps(facts, default=_plain)
        coef, intercept = np.ascontiguousarray(self.coef), np.ascontiguousarray(self.intercept)
        if path.endswith(".npz"):
            with atomic_path(path) as partial, open(partial, "wb") as file:
                np.savez(file, facts=np.array(text), coef=coef, intercept=intercept)
        elif path.endswith(".safetensors"):
            from safetensors.numpy import save_file

            with atomic_path(path) as partial:
                save_file({"coef": coef, "intercept": intercept}, partial, {"facts": text})
        else:
            raise ValueError(f"{path}: a probe is saved as .npz or .safetensors")


def _plain(value: Any) -> Any:
    """What JSON has in place of numpy's arrays and numbers, and of paths and the like."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def load_probe(path: str | os.PathLike) -> LinearModel:
    """Read a probe that `LinearModel.save` wrote. Never runs code from the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a saved probe.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"no saved probe at {path}")
    try:
        if path.endswith(".safetensors"):
            from safetensors import safe_open

            with safe_open(path, "np") as file:
                arrays = {name: file.get_tensor(name) for name in ("coef", "intercept")}
                facts = json.loads(file.metadata()["facts"])
        else:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("coef", "intercept")}
                facts = json.loads(str(file["facts"]))
    except Exception as error:  # every way of being another file
        raise ValueError(f"{path} is no saved probe: {type(error).__name__}: {error}") from None
    return LinearModel(arrays["coef"], arrays["intercept"], facts["task"], facts["C"], facts["info"])

"""A fitted linear model, and its file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geomoe.data.arrays import is_xarray
from geomoe.files import atomic_path
from geomoe.landsat import COLLECTION2, Statistics
from geomoe.models.pooling import check_pooled, parse_pool
from geomoe.probing.metrics import TASKS, as_numbers, check_finite, check_unmasked

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
        """Compute logits, (N, D) -> (N, K) float32; of a regression its values, float64: targets may lie far from 0."""
        check_unmasked("features", features)
        features = as_numbers("features", features)
        if features.ndim != 2 or features.shape[1] != len(self.coef):
            raise ValueError(f"features must be (N, {len(self.coef)}), got {features.shape}")
        check_finite("features", features, "leave these rows out: what was not embedded, having no data, has no class")
        return features.astype(np.float64 if self.task == "regression" else np.float32) @ self.coef + self.intercept

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
        """Embed images and predict: as `predict`, the first axis being that of the images, or their other dimensions in xarray.

        Args:
            **options: as for `PretrainedEncoder.embed`; pool, nodata, resize_mode and statistics that they leave out, or have a
                spec's defaults of, are those of the fit, and the encoder is not given metadata that the fit had none of.

        Raises:
            ValueError: the encoder is not that of the fit, where `info` says which it was; an image has no data; the images of
                the fit were clipped, or knew one of week and hour; or they were z-scored by several statistics, or by such of
                another unit or other channels.
        """
        of_encoder = self.info.get("encoder_sha256")
        if of_encoder is not None and of_encoder != encoder.fingerprint:
            other = f"another encoder ({self.info.get('encoder', 'unnamed')}, {of_encoder[:12]})"
            this = f"{encoder.source} ({encoder.fingerprint[:12]})"
            raise ValueError(f"the probe was fitted on embeddings of {other} than {this}; load that one, or fit it anew")
        pool = self.info.get("pool", "mean")
        options.setdefault("pool", parse_pool(pool) if isinstance(pool, str) else tuple(pool))
        check_pooled(options["pool"])
        self._drop(images, options)
        fitted = {} if options.get("normalized") else self._of_fit(encoder, options)
        if options.get("spec") is not None:
            options["spec"] = dataclasses.replace(options["spec"], **fitted)
        else:
            options |= fitted
        z, made = encoder.embed(images, return_record=True, **options)
        if "statistics" in fitted and not fitted["statistics"].unit:
            for key in ("unit", "bands"):
                if made[key] != self.info["input"][key]:
                    of = f"the probe was fitted on images z-scored by {fitted['statistics'].source}, whose {key} is"
                    both = f"{self.info['input'][key]}, and of these it is {made[key]}"
                    raise ValueError(f"{of} {both}; give statistics= of their unit and channels")
        predictions = self.predict(np.asarray(z).reshape(-1, z.shape[-1]))
        return predictions.reshape(z.shape[:-1] + predictions.shape[1:])

    def _of_fit(self, encoder: PretrainedEncoder, options: Mapping[str, Any]) -> dict[str, Any]:
        """How the images of the fit were read, as far as `options` do not say it, as fields of an `InputSpec`."""
        record, spec, fitted = self.info.get("input", {}), options.get("spec"), dict[str, Any]()
        said = {
            name: options.get(name) if spec is None else getattr(spec, name) for name in ("nodata", "resize_mode", "statistics")
        }
        if said["nodata"] in (None, "masked" if spec else None) and options.get("valid") is None and "nodata" in record:
            fitted["nodata"] = record["nodata"]
        resize_mode = self.info.get("data", {}).get("resize_mode")
        if said["resize_mode"] in (None, "exact" if spec else None) and resize_mode is not None:
            fitted["resize_mode"] = resize_mode
        of_images = record.get("statistics")
        if said["statistics"] is not None or of_images is None:
            return fitted
        if isinstance(of_images, list):
            raise ValueError("the probe was fitted on scenes each z-scored by its own statistics; give statistics=")
        statistics = Statistics.of(of_images)
        if record.get("statistics_of", "encoder") == "encoder" and record.get("statistics_unit") == COLLECTION2:
            statistics = statistics.of_collection2()
        if statistics.digest != encoder.statistics.digest:
            fitted["statistics"] = statistics
        return fitted

    def _drop(self, images: Any, options: dict[str, Any]) -> None:
        """Take out of the options what the fit was not given; ValueError where what it did cannot be done here."""
        data = self.info.get("data", {})
        by_hand = "do the same, embed the images and give the embeddings to predict"
        if data.get("clip"):
            raise ValueError(f"the probe was fitted on digital numbers clipped to {tuple(data['clip'])}: {by_hand}")
        dropped, timed = set(data.get("drop", ())), options.get("time") is not None
        if dropped and is_xarray(images):
            raise ValueError(f"the probe was fitted without {', '.join(sorted(dropped))}, which xarray may say: {by_hand}")
        if len(dropped & {"week", "hour"}) == 1 and timed:
            raise ValueError(f"the probe was fitted without {', '.join(sorted(dropped))}: {by_hand}")
        if data.get("hour") == "published" and "week" not in dropped and (timed or is_xarray(images)):
            raise ValueError(f"the probe was fitted on hours as published, not in UTC: {by_hand}, or give no time")
        for name in dropped & {"lat", "lon"} | ({"time"} if "week" in dropped else set()):
            options.pop(name, None)

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
        model = LinearModel(arrays["coef"], arrays["intercept"], facts["task"], facts["C"], facts["info"])
        _check_model(model)
    except Exception as error:  # every way of being another file
        raise ValueError(f"{path} is no saved probe: {type(error).__name__}: {error}") from None
    return model


def _check_model(model: LinearModel) -> None:
    """Raise ValueError where the parts of a model do not fit together."""
    coef, intercept, tasks = model.coef, model.intercept, (*TASKS, "regression")
    if coef.dtype.kind != "f" or coef.ndim != 2 or intercept.shape != coef.shape[1:]:
        raise ValueError(f"coef must be numbers (D, K) and intercept (K,), got {coef.shape} and {intercept.shape}")
    if model.task not in tasks:
        raise ValueError(f"task = {model.task!r} is not one of {', '.join(tasks)}")
    if not isinstance(model.info, Mapping):
        raise ValueError(f"info must be a mapping, got {type(model.info).__name__}")

"""Fine-tuning: the encoder, or its last blocks, and a linear head, on labelled images."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from geomoe import compilation
from geomoe.checks import check_count
from geomoe.data.arrays import as_numpy
from geomoe.data.preprocess import read_mask
from geomoe.metadata import FIELDS
from geomoe.models import encode
from geomoe.models.pooling import Pool, check_pooled, pool_name, pool_tokens
from geomoe.pretrained import PretrainedEncoder
from geomoe.probing.linear import fit_logistic
from geomoe.probing.metrics import check_finite, check_rows, is_number, main_score
from geomoe.probing.probe_result import ProbeResult, classification_result
from geomoe.probing.splits import holdout, labelled_splits

Array = jax.Array
# image (N, S, S, C) z-scored; valid (N, S, S) bool, if some pixels hold no data; week, hour, lat, lon (N, 2); labels (N, K) 0/1
# or (N,)
Images = Mapping[str, np.ndarray]
_KEYS = ("image", *FIELDS, "labels")


@dataclasses.dataclass(frozen=True)
class FineTuneOptions:
    """How an encoder is fine-tuned.

    The last block learns at `lr * layer_decay`, the one below at `lr * layer_decay**2`, ...
    """

    blocks: int | None = None  # how many of the last blocks learn; None is the whole encoder, 0 the head alone
    lr: float = 3e-4  # of the head
    layer_decay: float = 0.75  # in (0, 1]
    weight_decay: float = 0.01  # of AdamW, scaled by the same factors as the learning rate
    epochs: int = 20  # at most
    batch_size: int = 64  # images a step
    patience: int = 3  # stop after so many epochs without a better validation score
    pool: Pool = "mean"  # as for `PretrainedEncoder.embed`
    seed: int = 0  # of the validation rows and of the order of the training rows
    resamples: int = 1000  # of the bootstrap confidence intervals; 0 for none

    def __post_init__(self) -> None:
        if not is_number(self.layer_decay) or not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay = {self.layer_decay!r} must be in (0, 1]")
        for name, least in (("epochs", 0), ("batch_size", 1), ("patience", 1), ("seed", 0), ("resamples", 0)):
            check_count(name, getattr(self, name), least)
        if self.blocks is not None:
            check_count("blocks", self.blocks)
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value < np.inf:
                raise ValueError(f"{name} = {value!r} must be 0 or more, and finite")
        check_pooled(self.pool)


def _read_images(name: str, split: Images, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Check a split with images of one shape (S, S, C), all but what its labels are: image, the metadata, labels and valid.

    Raises:
        ValueError: the split lacks something, some of it is empty, masked, NaN or of another shape, or an image has no valid
            pixel.
    """
    if not isinstance(split, Mapping):
        raise ValueError(f"{name} must be a dict of {', '.join(_KEYS)}, got {type(split).__name__}")
    if absent := [key for key in _KEYS if key not in split]:
        raise ValueError(f"{name} has no {', '.join(absent)}; it must have {', '.join(_KEYS)}")
    advice = {"image": "fill them, and say in valid which pixels hold data", "labels": "leave these rows out"}
    advice |= dict.fromkeys(FIELDS, "give [0, 0] where it is unknown")
    for key in _KEYS:
        check_rows(f"{name}: values of {key}", split[key], advice[key])
    rows = {key: np.asarray(as_numpy(split[key]), None if key == "labels" else np.float32) for key in _KEYS}
    count = rows["image"].shape[:1]
    rows["valid"] = read_mask(as_numpy(split["valid"])) if "valid" in split else np.ones((*count, *shape[:2]), bool)
    of_row = {"image": shape, "valid": shape[:2], **dict.fromkeys(FIELDS, (2,))}
    for key, values in rows.items():
        expected = (*count, *of_row.get(key, values.shape[1:]))
        if values.shape != expected:
            source = "`PretrainedEncoder.prepare` gives image and valid, `geomoe.metadata.encode` week, hour, lat and lon"
            raise ValueError(f"{name}: {key} must be {expected}, got {values.shape}; {source}")
    for key in ("image", *FIELDS):
        check_finite(f"{name}: values of {key}", rows[key], advice[key])
    if (blank := np.flatnonzero(~rows["valid"].any(axis=(1, 2)))).size:
        some = ", ".join(map(str, blank[:5])) + ", ..." * (len(blank) > 5)
        raise ValueError(f"{name}: {len(blank)} of {len(rows['image'])} images have no valid pixel; leave out rows {some}")
    return rows


def _take(rows: Images, index: np.ndarray) -> Images:
    return {name: values[index] for name, values in rows.items()}


def _batches(rows: Images, order: np.ndarray, size: int) -> Iterator[tuple[Images, int]]:
    """Batches of one size, and how many of their rows count: the last one repeats rows."""
    for start in range(0, len(order), size):
        index = order[start : start + size]
        yield _take(rows, np.resize(index, size)), len(index)


def rate_factors(params: Any, depth: int, blocks: int | None, decay: float) -> Any:
    """Factors of the learning rate, one for each leaf of {"encoder", "head"}.

    They are decay ** (number of blocks from the top), 1 for the head, decay ** (depth + 1) for what lies below the blocks, and
    0 for what stays frozen.
    """

    def factor(path: tuple[Any, ...], _: Any) -> float:
        names = [str(getattr(key, "key", key)) for key in path]
        if names[0] == "head":
            return 1.0
        block = int(names[1].removeprefix("block_")) if names[1].startswith("block_") else -1
        from_top = depth - block  # 1 for the last block
        frozen = blocks is not None and (from_top > blocks if block >= 0 else blocks < depth)
        return 0.0 if frozen else decay**from_top

    return jax.tree_util.tree_map_with_path(factor, params)


@compilation.isolated
def finetune(
    train: Images,
    test: Images,
    *,
    encoder: PretrainedEncoder,
    task: str,
    val: Images | None = None,
    options: FineTuneOptions = FineTuneOptions(),
    **changes: Any,
) -> ProbeResult:
    """Fine-tune an encoder with a linear head, and stop where the validation score no longer rises.

    The head starts as the linear probe of the frozen features (Kumar et al. 2022, arXiv 2202.10054), so that the score before
    the first step is the probe's. Router noise and dropout are off.

    Args:
        train, test, val: dicts of image (N, S, S, C) as the model takes them (`PretrainedEncoder.prepare`); week, hour, lat,
            lon (N, 2) (`geomoe.metadata.encode`); labels; and, where some pixels hold no data, valid (N, S, S) bool. Without
            `val` a fifth of the training rows is held out.
        encoder: where to start.
        task: "multiclass" or "multilabel".
        options: how to tune; `changes` are its fields by name, as `epochs=5`.

    Returns:
        A result whose settings hold the validation score of each epoch, the first being that before any step, and
        `"params"`, the tuned {"encoder", "head"} of the best one.

    Raises:
        ValueError: an option has no meaning, or a split lacks something, is empty or holds what cannot be learned from: NaN,
            other shapes, an image without a valid pixel; the message names the split and the field.
        FloatingPointError: the loss is no longer finite.
    """
    options = dataclasses.replace(options, **changes)
    cfg = encoder.config
    if options.blocks is not None and options.blocks > cfg.depth:
        raise ValueError(f"blocks = {options.blocks} must be between 0 and the encoder's {cfg.depth}")
    splits = {name: split for name, split in {"train": train, "test": test, "val": val}.items() if split is not None}
    shape = (cfg.img_size, cfg.img_size, cfg.in_channels)
    checked = {name: _read_images(name, split, shape) for name, split in splits.items()}
    keys = _KEYS if all(split["valid"].all() for split in checked.values()) else (*_KEYS, "valid")
    rows: dict[str, Images] = {name: {key: split[key] for key in keys} for name, split in checked.items()}
    of_rows = {name: (split["week"], split["labels"]) for name, split in checked.items()}  # the labels alone are to be read
    for name, (_, labels) in labelled_splits(task, of_rows).items():
        rows[name] = {**rows[name], "labels": labels}
    if val is None:
        learned, validation = holdout(len(rows["train"]["labels"]), options.seed)
        rows |= {"train": _take(rows["train"], learned), "val": _take(rows["train"], validation)}
    count = len(rows["train"]["labels"])
    batch_size = min(options.batch_size, count)

    @jax.jit
    def features(params: Any, batch: Mapping[str, Array]) -> Array:
        metadata = tuple(batch[name] for name in FIELDS)
        out = encode(cfg, params["encoder"], batch["image"], *metadata, valid=batch.get("valid"))
        return pool_tokens(out, metadata, cfg, options.pool)

    @jax.jit
    def logits(params: Any, batch: Mapping[str, Array]) -> Array:
        return features(params, batch) @ params["head"]["coef"] + params["head"]["intercept"]

    def apply(function: Callable[..., Array], params: Any, rows: Images) -> np.ndarray:
        batches = _batches(rows, np.arange(len(rows["labels"])), batch_size)
        return np.concatenate([np.asarray(function(params, batch))[:used] for batch, used in batches])

    def probabilities(params: Any, rows: Images) -> np.ndarray:
        z = apply(logits, params, rows).astype(np.float64)
        return np.asarray(jax.nn.softmax(z, axis=1) if task == "multiclass" else jax.nn.sigmoid(z))

    def score(params: Any) -> float:
        return main_score(rows["val"]["labels"], probabilities(params, rows["val"]), task)

    def mean_loss(params: Any, batch: Mapping[str, Array], weight: Array) -> Array:
        """Cross-entropy over the rows with weight 1; of several labels, the sum over the classes."""
        z, labels = logits(params, batch), batch["labels"].astype(jnp.float32)
        if task == "multiclass":
            losses = optax.softmax_cross_entropy(z, labels)
        else:
            losses = optax.sigmoid_binary_cross_entropy(z, labels).sum(axis=-1)
        return jnp.sum(losses * weight) / jnp.sum(weight)

    @functools.partial(jax.jit, donate_argnums=1)
    def step(params: Any, state: Any, batch: Mapping[str, Array], weight: Array) -> tuple[Any, Any, Array]:
        loss, grads = jax.value_and_grad(mean_loss)(params, batch, weight)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = {"encoder": jax.tree.map(jnp.asarray, encoder.params["encoder"])}
    probe = fit_logistic(apply(features, params, rows["train"]), rows["train"]["labels"], task=task, C=1.0)[0]
    params["head"] = {"coef": jnp.asarray(probe.coef), "intercept": jnp.asarray(np.clip(probe.intercept, -20, 20))}
    factors = rate_factors(params, cfg.depth, options.blocks, options.layer_decay)
    steps = options.epochs * (-(-count // batch_size))
    schedule = optax.warmup_cosine_decay_schedule(0.0, options.lr, max(steps // 20, 1), max(steps, 2))
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=options.weight_decay),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors)),
    )
    state = optimizer.init(params)
    rng = np.random.default_rng(options.seed)
    history, best, best_params = [score(params)], 0, params
    for epoch in range(1, options.epochs + 1):
        for batch, used in _batches(rows["train"], rng.permutation(count), batch_size):
            params, state, loss = step(params, state, batch, (np.arange(batch_size) < used).astype(np.float32))
        if not np.isfinite(float(loss)):
            raise FloatingPointError(f"the loss is {float(loss)} in epoch {epoch}: lower lr = {options.lr}")
        history.append(score(params))
        if history[-1] > history[best]:
            best, best_params = epoch, params
        elif epoch - best >= options.patience:
            break
    settings = dataclasses.asdict(options) | {name: len(split["labels"]) for name, split in rows.items()}
    settings |= dict(probe="finetune", batch_size=batch_size, pool=pool_name(options.pool), val_scores=history, best_epoch=best)
    settings["params"] = jax.tree.map(np.asarray, best_params)
    scores = probabilities(best_params, rows["test"])
    return classification_result(rows["test"]["labels"], scores, task, settings, options.resamples)

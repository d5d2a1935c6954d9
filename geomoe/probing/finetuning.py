"""Fine-tuning: the encoder, or its last blocks, and a linear head, on labelled images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from geomoe.metadata import FIELDS
from geomoe.models import ModelConfig, encode
from geomoe.models.pooling import Pool, pool_name, pool_tokens, pool_width
from geomoe.pretrained import PretrainedEncoder
from geomoe.probing.inputs import labelled_splits
from geomoe.probing.linear import fit_logistic
from geomoe.probing.scoring import ProbeResult, classification_result, main_score
from geomoe.probing.splits import holdout

Array = jax.Array
Images = Mapping[str, np.ndarray]  # image (N, S, S, C) z-scored; week, hour, lat, lon (N, 2); labels (N, K) 0/1 or (N,)


@dataclasses.dataclass(frozen=True)
class FineTuneOptions:
    """How an encoder is fine-tuned.

    Attributes:
        blocks: how many of the last blocks learn; None is the whole encoder, 0 the head alone.
        lr: of the head; the last block learns at `lr * layer_decay`, the one below at `lr * layer_decay**2`, ...
        layer_decay: in (0, 1].
        weight_decay: of AdamW, scaled by the same factors as the learning rate.
        epochs, patience: at most so many passes; stop after `patience` of them without a better validation score.
        batch_size: images a step.
        pool: as for `PretrainedEncoder.embed`.
        seed: of the validation rows and of the order of the training rows.
        resamples: of the bootstrap confidence intervals; 0 for none.

    Raises:
        ValueError: `layer_decay` or `batch_size` is out of range.
    """

    blocks: int | None = None
    lr: float = 3e-4
    layer_decay: float = 0.75
    weight_decay: float = 0.01
    epochs: int = 20
    batch_size: int = 64
    patience: int = 3
    pool: Pool = "mean"
    seed: int = 0
    resamples: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay = {self.layer_decay} must be in (0, 1]")
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size} must be at least 1")


class _Rows(NamedTuple):
    """Images (N, S, S, C), metadata (four (N, 2) arrays in the order of FIELDS) and labels (N, K) 0/1 in memory."""

    images: np.ndarray
    metadata: tuple[np.ndarray, ...]
    labels: np.ndarray

    def take(self, index: np.ndarray) -> _Rows:
        return _Rows(self.images[index], tuple(values[index] for values in self.metadata), self.labels[index])


def rate_factors(params: Any, depth: int, blocks: int | None, decay: float) -> Any:
    """Factors of the learning rate, one for each leaf of {"encoder", "head"}.

    Returns:
        The tree of `params` with decay ** (number of blocks from the top), 1 for the head, decay ** (depth + 1) for what lies
        below the blocks, and 0 for what stays frozen.
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


def finetune(
    train: Images,
    test: Images,
    *,
    encoder: PretrainedEncoder,
    task: str,
    val: Images | None = None,
    options: FineTuneOptions = FineTuneOptions(),  # noqa: B008  (frozen)
    **changes: Any,
) -> ProbeResult:
    """Fine-tune an encoder with a linear head, and stop where the validation score no longer rises.

    The head starts as the linear probe of the frozen features (Kumar et al. 2022, arXiv 2202.10054), so that the score before
    the first step is the probe's. Router noise and dropout are off.

    Args:
        train, test, val: dicts of image (N, S, S, C) as the model takes them (`PretrainedEncoder.prepare`); week, hour, lat,
            lon (N, 2) (`geomoe.metadata.encode`); and labels. Without `val` a fifth of the training rows is held out.
        encoder: where to start.
        task: "multiclass" or "multilabel".
        options: how to tune; `changes` are its fields by name, as `epochs=5`.

    Returns:
        A result whose settings hold the validation score of each epoch, the first being that before any step, and
        `"params"`, the tuned {"encoder", "head"} of the best one.

    Raises:
        ValueError: shapes or options do not fit.
        FloatingPointError: the loss is no longer finite.
    """
    options = dataclasses.replace(options, **changes)
    cfg = encoder.config
    if options.blocks is not None and not 0 <= options.blocks <= cfg.depth:
        raise ValueError(f"blocks = {options.blocks} must be between 0 and the encoder's {cfg.depth}")
    rows = _in_memory(task, {"train": train, "test": test, "val": val})
    if val is None:
        learned, validation = holdout(len(rows["train"].labels), options.seed)
        rows |= {"train": rows["train"].take(learned), "val": rows["train"].take(validation)}
    count = len(rows["train"].labels)
    batch_size = min(options.batch_size, count)
    model = _Classifier(cfg, options.pool, task, batch_size)

    params = model.start(encoder.params["encoder"], rows["train"])
    steps = options.epochs * (-(-count // batch_size))
    optimizer = _optimizer(options, rate_factors(params, cfg.depth, options.blocks, options.layer_decay), steps)
    step = _step(model, optimizer)
    state = optimizer.init(params)
    rng = np.random.default_rng(options.seed)

    def score(params: Any) -> float:
        return main_score(rows["val"].labels, model.probabilities(params, rows["val"]), task)

    history, best, best_params = [score(params)], 0, params
    for epoch in range(1, options.epochs + 1):
        for batch, used in model.batches(rows["train"], rng.permutation(count)):
            weight = (np.arange(batch_size) < used).astype(np.float32)
            params, state, loss = step(params, state, batch, weight)
        if not np.isfinite(float(loss)):
            raise FloatingPointError(f"the loss is {float(loss)} in epoch {epoch}: lower lr = {options.lr}")
        history.append(score(params))
        if history[-1] > history[best]:
            best, best_params = epoch, params
        elif epoch - best >= options.patience:
            break
    settings = dataclasses.asdict(options) | dict(
        probe="finetune",
        batch_size=batch_size,
        pool=pool_name(options.pool),
        train=count,
        val=len(rows["val"].labels),
        test=len(rows["test"].labels),
        val_scores=history,
        best_epoch=best,
        params=jax.tree.map(np.asarray, best_params),
    )
    scores = model.probabilities(best_params, rows["test"])
    return classification_result(rows["test"].labels, scores, task, settings, options.resamples)


def _in_memory(task: str, splits: Mapping[str, Images | None]) -> dict[str, _Rows]:
    present = {name: split for name, split in splits.items() if split is not None}
    flat = {name: (np.asarray(s["image"]).reshape(len(s["image"]), -1), s["labels"]) for name, s in present.items()}
    labels = {name: y for name, (_, y) in labelled_splits(task, flat).items()}
    return {
        name: _Rows(np.asarray(split["image"]), tuple(np.asarray(split[field]) for field in FIELDS), labels[name])
        for name, split in present.items()
    }


class _Classifier:
    """An encoder with a linear head: params {"encoder", "head": {"coef" (D, K), "intercept" (K,)}}."""

    def __init__(self, config: ModelConfig, pool: Pool, task: str, batch_size: int):
        self._task, self._size = task, batch_size
        self._width = pool_width(config, pool)

        @jax.jit
        def features(params: Any, images: Array, metadata: tuple[Array, ...]) -> Array:
            return pool_tokens(encode(config, params, images, *metadata), metadata, config, pool)

        @jax.jit
        def logits(params: Any, images: Array, metadata: tuple[Array, ...]) -> Array:
            return features(params["encoder"], images, metadata) @ params["head"]["coef"] + params["head"]["intercept"]

        self._features, self._logits = features, logits

    def batches(self, rows: _Rows, order: np.ndarray) -> Iterator[tuple[_Rows, int]]:
        """Batches of one size, and how many of their rows count: the last one repeats rows."""
        for start in range(0, len(order), self._size):
            index = order[start : start + self._size]
            yield rows.take(np.resize(index, self._size)), len(index)

    def _run(self, function: Callable[..., Array], params: Any, rows: _Rows) -> np.ndarray:
        batches = self.batches(rows, np.arange(len(rows.labels)))
        return np.concatenate([np.asarray(function(params, batch.images, batch.metadata))[:used] for batch, used in batches])

    def start(self, encoder: Any, rows: _Rows) -> Any:
        """The parameters to begin with: the encoder's, and the linear probe of its features as the head."""
        params = jax.tree.map(jnp.asarray, encoder)
        probe = fit_logistic(self._run(self._features, params, rows), rows.labels, task=self._task, C=1.0)[0]
        head = {"coef": jnp.asarray(probe.coef), "intercept": jnp.asarray(np.clip(probe.intercept, -20, 20))}
        return {"encoder": params, "head": head}

    def probabilities(self, params: Any, rows: _Rows) -> np.ndarray:
        """(N, K)."""
        logits = self._run(self._logits, params, rows).astype(np.float64)
        return np.asarray(jax.nn.softmax(logits, axis=1) if self._task == "multiclass" else jax.nn.sigmoid(logits))

    def loss(self, params: Any, batch: _Rows, weight: Array) -> Array:
        """Mean cross-entropy over the rows with weight 1; of several labels, the sum over the classes."""
        logits = self._logits(params, batch.images, batch.metadata)
        labels = batch.labels.astype(jnp.float32)
        if self._task == "multiclass":
            losses = optax.softmax_cross_entropy(logits, labels)
        else:
            losses = optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)
        return jnp.sum(losses * weight) / jnp.sum(weight)


def _optimizer(options: FineTuneOptions, factors: Any, steps: int) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, options.lr, max(steps // 20, 1), max(steps, 2))
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=options.weight_decay),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors)),
    )


def _step(model: _Classifier, optimizer: optax.GradientTransformation) -> Callable[..., tuple[Any, Any, Array]]:
    @functools.partial(jax.jit, donate_argnums=1)
    def step(params: Any, state: Any, batch: _Rows, weight: Array) -> tuple[Any, Any, Array]:
        loss, grads = jax.value_and_grad(model.loss)(params, batch, weight)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step

"""Fine-tuning: the encoder, or its last blocks, and a linear head, on labelled images."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from geomoe.metadata import FIELDS
from geomoe.models import Encoder
from geomoe.models.pooling import pool_tokens, pool_width
from geomoe.pretrained import PretrainedEncoder
from geomoe.probing.linear import fit_logistic
from geomoe.probing.metrics import bootstrap, classification_metrics, main_metric
from geomoe.probing.protocols import ProbeResult, _check, _decide, _holdout

Array = jax.Array
Images = Mapping[str, np.ndarray]  # image (N, S, S, C) z-scored; week, hour, lat, lon (N, 2); labels (N, K) 0/1 or (N,)


def _multipliers(params: Any, depth: int, blocks: int | None, decay: float) -> Any:
    """A learning-rate factor for each leaf: decay ** (blocks above it), 0 for what stays frozen."""

    def factor(path: tuple, _: Any) -> float:
        names = [str(getattr(key, "key", key)) for key in path]
        if names[0] == "head":
            return 1.0
        name = names[1]
        if name.startswith("block_"):
            below = depth - int(name[-2:])  # 1 for the last block
            return 0.0 if blocks is not None and below > blocks else decay**below
        return 0.0 if blocks is not None and blocks < depth else decay ** (depth + 1)

    return jax.tree_util.tree_map_with_path(factor, params)


def finetune(
    train: Images,
    test: Images,
    *,
    encoder: PretrainedEncoder,
    task: str,
    val: Images | None = None,
    blocks: int | None = None,
    lr: float = 3e-4,
    layer_decay: float = 0.75,
    weight_decay: float = 0.01,
    epochs: int = 20,
    batch_size: int = 64,
    patience: int = 3,
    pool: str = "mean",
    seed: int = 0,
    resamples: int = 1000,
) -> ProbeResult:
    """Fine-tunes an encoder with a linear head, and stops where the validation score no longer rises.

    The head starts as the linear probe of the frozen features (Kumar et al. 2022, arXiv 2202.10054), so that the score before
    the first step is the probe's. Router noise and dropout are off.

    Args:
        train, test, val: dicts of image (N, S, S, C) as the model takes them (`PretrainedEncoder.prepare`); week, hour, lat,
            lon (N, 2) (`geomoe.metadata.encode`); and labels. Without `val` a fifth of the training rows is held out.
        encoder: where to start.
        task: "multiclass" or "multilabel".
        blocks: how many of the last blocks learn; None is the whole encoder, 0 the head alone.
        lr: of the head; the last block learns at `lr * layer_decay`, the one below at `lr * layer_decay**2`, ...
        epochs, patience: at most so many passes; stop after `patience` of them without a better score.

    Returns:
        A result whose settings hold the validation score of each epoch, the first being that before any step, and
        `"params"`, the tuned {"encoder", "head"}.

    Raises:
        ValueError: shapes or options do not fit.
    """
    cfg = encoder.config
    if blocks is not None and not 0 <= blocks <= cfg.depth:
        raise ValueError(f"blocks = {blocks} must be between 0 and the encoder's {cfg.depth}")
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay = {layer_decay} must be in (0, 1]")
    splits = {"train": train, "test": test} | ({"val": val} if val is not None else {})
    flat = {k: (np.asarray(v["image"]).reshape(len(v["image"]), -1), v["labels"]) for k, v in splits.items()}
    labels = {k: y for k, (_, y) in _check(task, **flat).items()}
    if val is None:
        rows, held = _holdout(len(labels["train"]), seed)
        pick = lambda data, index: {k: np.asarray(data[k])[index] for k in ("image", *FIELDS)}
        splits |= {"train": pick(train, rows), "val": pick(train, held)}
        labels |= {"train": labels["train"][rows], "val": labels["train"][held]}
    count = len(labels["train"])
    batch_size = min(batch_size, count)

    @jax.jit
    def logits_of(params: Any, images: Array, pairs: tuple[Array, ...]) -> tuple[Array, Array]:
        features = pool_tokens(Encoder(cfg).apply({"params": params["encoder"]}, images, *pairs), pairs, cfg, pool)
        return features @ params["head"]["coef"] + params["head"]["intercept"], features

    def batches(data: Images, order: np.ndarray):
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            padded = np.resize(index, batch_size)  # repeats rows, which are dropped again
            yield index, jnp.asarray(data["image"][padded]), tuple(jnp.asarray(data[name][padded]) for name in FIELDS)

    def run(params: Any, split: str, which: int = 0) -> np.ndarray:
        order = np.arange(len(labels[split]))
        return np.concatenate([np.asarray(logits_of(params, *b)[which])[: len(i)] for i, *b in batches(splits[split], order)])

    def probabilities(logits: np.ndarray) -> np.ndarray:
        logits = logits.astype(np.float64)
        return np.asarray(jax.nn.softmax(logits, axis=1) if task == "multiclass" else jax.nn.sigmoid(logits))

    def score(params: Any) -> float:
        p = probabilities(run(params, "val"))
        return classification_metrics(labels["val"], _decide(p, task), p, task)[main_metric(task)]

    width, classes = pool_width(cfg, pool), labels["train"].shape[1]
    params = {
        "encoder": jax.tree.map(jnp.asarray, encoder.params["encoder"]),
        "head": {"coef": jnp.zeros((width, classes)), "intercept": jnp.zeros(classes)},
    }
    probe = fit_logistic(run(params, "train", 1), labels["train"], task=task, C=1.0)[0]
    params["head"] = {"coef": jnp.asarray(probe.coef), "intercept": jnp.asarray(np.clip(probe.intercept, -20, 20))}

    steps = epochs * (-(-count // batch_size))
    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, max(steps // 20, 1), max(steps, 2))
    multipliers = _multipliers(params, cfg.depth, blocks, layer_decay)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=weight_decay),
        optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, multipliers)),
    )

    @functools.partial(jax.jit, donate_argnums=1)
    def step(params: Any, state: Any, images: Array, pairs: tuple[Array, ...], y: Array, weight: Array):
        def loss_fn(params: Any) -> Array:
            logits, _ = logits_of(params, images, pairs)
            if task == "multiclass":
                losses = optax.softmax_cross_entropy(logits, y)
            else:
                losses = optax.sigmoid_binary_cross_entropy(logits, y).sum(axis=-1)
            return jnp.sum(losses * weight) / jnp.sum(weight)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    rng = np.random.default_rng(seed)
    history, best, best_params, waited = [score(params)], 0, params, 0
    for epoch in range(epochs):
        for index, images, pairs in batches(splits["train"], rng.permutation(count)):
            weight = np.arange(batch_size) < len(index)
            y = labels["train"][np.resize(index, batch_size)].astype(np.float32)
            params, state, loss = step(params, state, images, pairs, y, weight.astype(np.float32))
        if not np.isfinite(float(loss)):
            raise FloatingPointError(f"the loss is {float(loss)} in epoch {epoch + 1}: lower lr = {lr}")
        history.append(score(params))
        if history[-1] > history[best]:
            best, best_params, waited = epoch + 1, params, 0
        else:
            waited += 1
            if waited >= patience:
                break
    scores = probabilities(run(best_params, "test"))
    predictions = _decide(scores, task)
    settings = dict(
        probe="finetune",
        blocks=blocks,
        lr=lr,
        layer_decay=layer_decay,
        weight_decay=weight_decay,
        batch_size=batch_size,
        pool=pool,
        seed=seed,
        train=count,
        val=len(labels["val"]),
        test=len(labels["test"]),
        val_scores=history,
        best_epoch=best,
        params=jax.tree.map(np.asarray, best_params),
    )
    metrics = classification_metrics(labels["test"], predictions, scores, task)
    intervals = bootstrap(labels["test"], predictions, scores, task, resamples) if resamples else {}
    return ProbeResult(metrics, predictions, scores, settings, intervals)

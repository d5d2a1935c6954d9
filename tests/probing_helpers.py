"""Data that the probes' tests share."""

import numpy as np


def problem(seed, rows, width, classes, multilabel):
    """Correlated features of uneven scale and offset, as embeddings have them, and labels that a linear model half explains."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, width)) @ rng.standard_normal((width, width)) * np.exp(rng.normal(0, 1, width)) * 0.05
    x = (x + rng.standard_normal(width)).astype(np.float32)
    w = rng.standard_normal((width, classes)) / x.std(axis=0)[:, None] / width**0.5
    logits = (x - x.mean(axis=0)) @ w * 2 + rng.normal(-1.5 if multilabel else 0, 0.7, classes)
    if multilabel:
        return x, (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int32)
    return x, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def blobs(rng, count, multilabel):
    """Features (N, 3) from which the labels can be read off."""
    centres = np.array([[0, 0, 3], [3, 0, 0], [0, 3, 0]], float)
    if multilabel:
        y = (rng.random((count, 3)) < 0.4).astype(int)
        return (y @ centres + rng.standard_normal((count, 3)) * 0.3).astype(np.float32), y
    k = rng.integers(0, 3, count)
    return (centres[k] + rng.standard_normal((count, 3)) * 0.3).astype(np.float32), k

"""Scores of classifiers: multi-class and multi-label."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

TASKS = ("multiclass", "multilabel")


def classification_metrics(labels: np.ndarray, predictions: np.ndarray, scores: np.ndarray, task: str) -> dict[str, float]:
    """Scores of one set of predictions.

    Args:
        labels: (N, K) 0/1: the true classes (one a row where the task is multi-class).
        predictions: (N, K) 0/1: the predicted ones.
        scores: (N, K): any monotonous confidence, for average precision.
        task: "multiclass" or "multilabel".

    Returns:
        `accuracy` (multi-class: overall accuracy; multi-label: share of rows that are right in every class), and precision,
        recall, f1 and mAP as `micro_...` and `macro_...`. Macro averages are over the classes that occur in `labels`; micro
        ones count all.
    """
    if task not in TASKS:
        raise ValueError(f"task = {task!r} is not one of {', '.join(TASKS)}")
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if not labels.shape == predictions.shape == scores.shape:
        raise ValueError(f"labels {labels.shape}, predictions {predictions.shape} and scores {scores.shape} must agree")
    present = labels.any(axis=0)
    metrics = {"accuracy": float((labels == predictions).all(axis=1).mean())}
    micro = precision_recall_fscore_support(labels, predictions, average="micro", zero_division=0)
    macro = precision_recall_fscore_support(labels[:, present], predictions[:, present], average="macro", zero_division=0)
    for name, values in (("micro", micro), ("macro", macro)):
        metrics |= {f"{name}_precision": values[0], f"{name}_recall": values[1], f"{name}_f1": values[2]}
    metrics["micro_mAP"] = average_precision_score(labels, scores, average="micro")
    metrics["macro_mAP"] = average_precision_score(labels[:, present], scores[:, present], average="macro")
    return {name: float(value) for name, value in metrics.items()}

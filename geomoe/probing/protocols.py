"""What published benchmarks fix of a probe, by the name that a result carries."""

from __future__ import annotations

from typing import Any

PROTOCOLS: dict[str, dict[str, dict[str, Any]]] = {
    # Corley et al. 2025, arXiv 2506.08780: logistic regression as scikit-learn has it, features unscaled; kNN with k = 5.
    "landsat_bench": {"linear": dict(C=1.0, standardise=False, max_iter=1000), "knn": dict(k=5, metric="euclidean")},
    # arXiv 2509.10919 compares itself with Landsat-Bench by its linear probe, on mean-pooled tokens.
    "moe_mae_paper": {"linear": dict(C=1.0, standardise=False, max_iter=1000)},
    # torchgeo-bench: C from a sweep on the validation split, then a fit on training plus validation; kNN-5, Euclidean.
    "torchgeo_bench": {
        "linear": dict(C="sweep", standardise=False, max_iter=1000, refit=True),
        "knn": dict(k=5, metric="euclidean"),
    },
}


def protocol_options(protocol: str, probe: str) -> dict[str, Any]:
    """Return the options that a protocol fixes for a probe.

    Raises:
        ValueError: there is no such protocol, or it has no such probe.

    >>> protocol_options("landsat_bench", "knn")
    {'k': 5, 'metric': 'euclidean'}
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol = {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    if probe not in PROTOCOLS[protocol]:
        raise ValueError(f"protocol {protocol!r} has no {probe} probe; it has {', '.join(PROTOCOLS[protocol])}")
    return dict(PROTOCOLS[protocol][probe])

"""Weights that come with the package: no network, no cache."""

import importlib.resources

PACKAGED = {
    "geomoe-s": "size S, pretrained on real Landsat imagery of four sensors (docs/model_card.md)",
    "geomoe-xxs": "size XXS, a third of the parameters, by the same recipe",
}


def packaged_path(name: str) -> str:
    """Give the file of weights that come with the package, by a name of `PACKAGED`."""
    return str(importlib.resources.files("geomoe.weights").joinpath("files", f"{name}.safetensors"))

"""Run directories and files of weights -> a `PretrainedEncoder`."""

import os
import warnings
from typing import Any

from geomoe import compilation
from geomoe.landsat import Statistics
from geomoe.models import MAE, ModelConfig, check_params
from geomoe.pretrained.encoder import PretrainedEncoder
from geomoe.training.checkpoints import load_params
from geomoe.training.run_file import is_run, read_run
from geomoe.weights import (
    PACKAGED,
    PUBLISHED,
    SAFETENSORS,
    fetch,
    format_of,
    is_address,
    load_safetensors,
    packaged_path,
    read_torch_checkpoint,
)


@compilation.isolated
def load(path: str | os.PathLike[str], checkpoint: str | int = "last", **options: Any) -> PretrainedEncoder:
    """Load a pretrained encoder.

    Args:
        path: "geomoe-s" or "geomoe-xxs", the weights that come with the package (`geomoe.weights.PACKAGED`); a run directory
            of `train.py`, an encoder's own file (`.safetensors`), PyTorch weights (`.pth`), which their content tells apart; or
            what is fetched once and kept (see `geomoe.weights.fetch`): the name of published weights
            (`geomoe.weights.PUBLISHED`), an `https://` or an `hf://owner/name` address. A file or a run directory that goes by
            the name of weights is taken before these.
        checkpoint: of a run directory: "last", "best" (by validation loss), or a step. A damaged one is left out with a
            warning, or refused where it is the only one or asked for by its step.
        **options: of `.pth` files of unknown sizes, as for `geomoe.weights.read_torch_checkpoint`.

    Raises:
        FileNotFoundError: there is nothing at `path`, or no such checkpoint.
        TypeError: there are options for what says its sizes itself.
        ValueError: `checkpoint` is given for a file; the file is no geo-moe-mae checkpoint, the checkpoint or the run
            directory's run.json is damaged, or a parameter has a wrong shape, is NaN or infinite.

    Warns:
        UserWarning: the run was trained on numbers that were clipped (`config.data.clip`).
    """
    path = os.fspath(path)
    source = path
    if not (os.path.isfile(path) or is_run(path)):
        if path in PACKAGED:
            path = packaged_path(path)
        elif is_address(path):
            path = fetch(path)
        elif not os.path.exists(path):
            raise FileNotFoundError(
                f"nothing at {path}; pass a run directory of train.py, a .safetensors or .pth file, an https:// address, or a "
                f"name of published weights ({', '.join((*PACKAGED, *PUBLISHED))})"
            )
    of_run = os.path.isdir(path)
    of_safetensors = not of_run and (format_of(path) or os.path.splitext(path)[1].lower()) == SAFETENSORS
    if options and (of_run or of_safetensors):
        kind = "run directory" if of_run else f"{SAFETENSORS} file"
        raise TypeError(f"{', '.join(options)}: a {kind} says its sizes itself")
    if checkpoint != "last" and not of_run:
        raise ValueError(f"checkpoint = {checkpoint!r} is for a run directory; {source} holds one encoder")
    if of_run:
        run = read_run(path)
        step, params = load_params(path, checkpoint)
        params.pop("heads", None)  # of the objectives, which end with pretraining
        if clip := run["config"].get("data", {}).get("clip"):
            clipped = f"{path} was trained on digital numbers clipped to {clip[0]:g} ... {clip[1]:g}"
            warnings.warn(f"{clipped}, which an encoder does not do by itself: clip yours alike", stacklevel=2)
        config, statistics = ModelConfig.from_dict(run["model"]), Statistics.of(run["statistics"])
        try:
            check_params(MAE(config), params)
        except ValueError as error:
            raise ValueError(f"{path} step {step}: {error}") from None
        return PretrainedEncoder(config, params, statistics, f"{path} step {step}", run["config"]["loss"]["normalise_targets"])
    if of_safetensors:
        file = load_safetensors(path)
        return PretrainedEncoder(file.config, file.params, file.statistics, source, file.normalised_targets, file.card)
    weights = read_torch_checkpoint(path, **options)
    statistics = weights.statistics or Statistics.published("bigearthnet_landsat")
    return PretrainedEncoder(weights.config, weights.params, statistics, source, weights.normalised_targets)

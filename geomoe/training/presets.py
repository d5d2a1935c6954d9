"""Whole configurations that files in `configs/` start from, beside the published one (`default_config`)."""

import ml_collections

from geomoe.training.config import default_config


def multi_objective_config(size: str = "S") -> ml_collections.ConfigDict:
    """The recipe for real patches that users get by default for their own data (docs/recipes.md has its figures).

    Two masked crops of a place, of 22 to 45 pixels resized to the model's size, flipped and rotated, neither of them given its
    metadata. The first is reconstructed, each patch normalised by itself, over the pixels that hold data; a light InfoNCE
    compares the two, and linear heads on the mean token predict the place's spectral indices and metadata. Balance in encoder
    and decoder; no dropout. Files in `configs/` set the data and the length.
    """
    config = default_config()
    config.model.size = size
    config.model.dropout = 0.0
    config.model.decoder_balance = True
    config.data.statistics = "computed"
    config.data.resize_mode = "random_resized_crop"
    config.data.crop_sides = (22, 45)
    config.data.flips = True
    config.data.rot90 = True
    config.data.metadata_dropout = 1.0
    config.train.batch_size = 64
    config.train.num_steps = 1000
    config.optimizer.lr = 3e-4
    config.loss.balance_weight = 20.0  # against gradients of a reconstruction error that is summed over the values of a patch
    config.loss.normalise_targets = True
    config.loss.valid_pixels = True
    config.loss.decoded_views = 1
    config.loss.info_nce_weight = 1.0
    config.loss.spectral_indices_weight = 50.0
    config.loss.metadata_weight = 10.0
    config.log.eval_every_steps = 250
    config.checkpoint.every_steps = 250
    return config


def few_patches(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Set a recipe on what the files in `configs/recipes` are compared on: nine tenths of a small prepared BigEarthNet-L."""
    config.data.name = "bigearthnet_landsat/19"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.statistics = "published"
    config.train.batch_size = 64
    return config


def multi_objective_on_few_patches() -> ml_collections.ConfigDict:
    """The multi-objective recipe there, half of each batch synthetic since there are few real patches."""
    config = few_patches(multi_objective_config())
    config.data.mix = (("synthetic_landsat", 0.5),)
    return config

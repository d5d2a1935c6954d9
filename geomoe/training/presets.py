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
    config.model.update(size=size, dropout=0.0, decoder_balance=True)
    config.data.update(statistics="computed", resize_mode="random_resized_crop", crop_sides=(22, 45))
    config.data.update(flips=True, rot90=True, metadata_dropout=1.0)
    config.train.update(batch_size=64, num_steps=1000)
    config.optimizer.lr = 3e-4
    config.loss.balance_weight = 20.0  # against gradients of a reconstruction error that is summed over the values of a patch
    config.loss.update(normalise_targets=True, valid_pixels=True, decoded_views=1)
    config.loss.update(info_nce_weight=1.0, spectral_indices_weight=50.0, metadata_weight=10.0)
    config.log.eval_every_steps = 250
    config.checkpoint.every_steps = 250
    return config


def few_patches(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Set a recipe on what the files in `configs/recipes` are compared on: nine tenths of a small prepared BigEarthNet-L."""
    config.data.update(name="bigearthnet_landsat/19", statistics="published")
    config.data.update(train_split="train[:90%]", val_split="train[90%:]")
    config.train.batch_size = 64
    return config


def multi_objective_on_few_patches() -> ml_collections.ConfigDict:
    """The multi-objective recipe there, half of each batch synthetic since there are few real patches."""
    config = few_patches(multi_objective_config())
    config.data.mix = (("synthetic_landsat", 0.5),)
    return config

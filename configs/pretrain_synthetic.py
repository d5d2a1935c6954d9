"""The demo: pretraining on the embedded synthetic patches."""

from geomoe.training import default_config


def get_config():
    config = default_config()
    config.data.name = "synthetic_landsat"
    config.data.statistics = "computed"
    config.data.fit = "random_crop"
    config.data.flips = True
    config.data.turns = True
    config.data.cache = True
    config.data.metadata_dropout = 0.3
    config.model.size = "XXS"
    config.train.batch_size = 32
    config.train.num_steps = 200
    config.loss.normalise_targets = True
    config.loss.contrast_weight = 10.0
    config.model.dropout = 0.0
    config.log.eval_every_steps = 100
    config.checkpoint.every_steps = 100
    return config

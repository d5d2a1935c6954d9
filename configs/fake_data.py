"""The published recipe on random numbers: the cost of a step without any cost of input.

    python train.py --config configs/fake_data.py --workdir /tmp/fake

Compare its images/s with those of the same model on real data: what is missing there is input.
"""

from geomoe.training import default_config


def get_config(size: str = "S"):
    config = default_config()
    config.model.size = size
    config.data.name = "fake"
    config.train.num_steps = 20
    config.log.every_steps = 5
    config.log.eval_every_steps = 20
    config.log.eval_batches = 1
    config.checkpoint.every_steps = 20
    return config

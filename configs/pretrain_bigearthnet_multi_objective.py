"""The multi-objective recipe on the whole of BigEarthNet-L, for 8 devices: 100 epochs in batches of 1,024 places, bfloat16.

    python -m geomoe.cli.prepare --dataset bigearthnet_landsat --source DIR --data_dir data
    python train.py --config configs/pretrain_bigearthnet_multi_objective.py --workdir runs/ben_multi_objective

26,300 steps on the 269,695 training patches. What they cost, from `python -m geomoe.cli.bench`: a masked crop takes 0.48 GFLOP
of matrix products, so 54 million crops take 2.6e16, which are 110 hours of the 2 cores that it was measured on (65 GFLOP/s of
their 200). Eight accelerators have no such limit: of 1,000 TFLOP/s together, one hundredth does it in 43 minutes, and the input
becomes it: 2 cores prepare 11,000 crops a second, the whole in 82 minutes. We have not run it: no accelerator was at
hand, and the recipe was chosen on small runs (docs/recipes.md). The learning rate grows with the root of the batch.
"""

from geomoe.training.presets import multi_objective_config


def get_config(size: str = "S"):
    config = multi_objective_config(size)
    config.model.dtype = "bfloat16"
    config.data.name = "bigearthnet_landsat/19"
    config.data.statistics = "published"
    config.train.batch_size = 1024
    config.train.num_steps = 0
    config.train.num_epochs = 100.0
    config.optimizer.lr = 2e-3
    config.log.every_steps = 100
    config.log.eval_every_steps = 1000
    config.checkpoint.every_steps = 1000
    return config

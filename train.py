"""Pretrains the masked autoencoder: `python train.py --config configs/X.py --workdir DIR [--config.a.b=v]`."""

import sys

from geomoe.cli.train import run

if __name__ == "__main__":
    sys.exit(run())

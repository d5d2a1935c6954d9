"""An encoder as a `torch.nn.Module`, for PyTorch benchmarks such as torchgeo-bench. Needs PyTorch, as nothing else here does.

The module is a thin shell: tensors go to JAX and back, no gradient flows. Weights stay in JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError("geomoe.export.torch_module needs PyTorch: pip install torch") from error

from geomoe.models.pooling import pool_width
from geomoe.pretrained import PretrainedEncoder


class TorchEncoder(torch.nn.Module):
    """A frozen geomoe encoder behind PyTorch's interface.

    Args:
        encoder: from `geomoe.load`.
        bands: names of the channels that come in, in their order; None says that they are the model's.
        unit: of the numbers that come in, as for `PretrainedEncoder.embed`; "zscored" says that they are z-scored already.
        resize_mode: "exact", "centre_crop" or "resize", for images of another size.
        pool: of the embedding.
        **options: fill_missing, sun_elevation, uint8_range, statistics, as for `PretrainedEncoder.embed`.
    """

    def __init__(
        self,
        encoder: PretrainedEncoder,
        *,
        bands: Sequence[str] | None = None,
        unit: str = "collection2_dn",
        resize_mode: str = "resize",
        pool: str = "mean",
        **options: Any,
    ):
        super().__init__()
        self.encoder = encoder
        self.unit, self.resize_mode, self.pool = unit, resize_mode, pool
        self.bands = None if bands is None else tuple(bands)
        self.options = options
        self.num_features = pool_width(encoder.config, pool)

    @torch.no_grad()
    def forward(self, images: torch.Tensor, lat: Any = None, lon: Any = None, time: Any = None) -> torch.Tensor:
        """(N, C, H, W) of `unit` -> (N, D) float32, on the images' device.

        Args:
            lat, lon, time: (N,), or None, as for `PretrainedEncoder.embed`.
        """
        array = np.ascontiguousarray(images.detach().cpu().numpy().transpose(0, 2, 3, 1))
        place = dict(lat=lat, lon=lon, time=time, pool=self.pool)
        if self.unit == "zscored":
            z = self.encoder.embed(array, normalized=True, **place)
        else:
            z = self.encoder.embed(
                array, **place, unit=self.unit, resize_mode=self.resize_mode, bands=self.bands, **self.options
            )
        return torch.from_numpy(z).to(images.device)

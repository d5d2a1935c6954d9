"""An encoder as a `torch.nn.Module`, for PyTorch benchmarks such as torchgeo-bench. Needs PyTorch, as nothing else here does.

The module is a thin shell: tensors go to JAX and back, no gradient flows. Weights stay in JAX.
"""

from typing import Any

try:
    import torch
except ImportError as error:
    raise ImportError("geomoe.export.torch_module needs PyTorch: pip install torch") from error

from geomoe.data.preprocess import InputSpec
from geomoe.models.pooling import Pool, pool_width
from geomoe.pretrained import PretrainedEncoder


class TorchEncoder(torch.nn.Module):
    """A frozen geomoe encoder behind PyTorch's interface.

    Args:
        encoder: from `geomoe.load`.
        spec: what the images that come in are; None says that they are z-scored already.
        pool: of the embedding.
    """

    def __init__(
        self, encoder: PretrainedEncoder, spec: InputSpec | None = InputSpec(resize_mode="resize"), *, pool: Pool = "mean"
    ):
        super().__init__()
        self.encoder, self.spec, self.pool = encoder, spec, pool
        self.num_features = pool_width(encoder.config, pool)

    @torch.no_grad()
    def forward(
        self, images: torch.Tensor, lat: Any = None, lon: Any = None, time: Any = None, valid: Any = None
    ) -> torch.Tensor:
        """(N, C, H, W) -> (N, D) float32, on the images' device.

        Args:
            images: as `spec` says.
            lat, lon, time: (N,), or None, as for `PretrainedEncoder.embed`.
            valid: (N, H, W) bool, False for pixels to be taken for such without data; z-scored images need it to say which
                those are, others say so themselves.
        """
        described: dict[str, Any] = {"normalized": self.spec is None, "spec": self.spec, "valid": valid}
        z = self.encoder.embed(images, lat, lon, time, self.pool, layout="NCHW", **described)
        return torch.from_numpy(z).to(images.device)

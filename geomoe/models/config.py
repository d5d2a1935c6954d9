"""The numbers that fix a network, and the published sizes.

Source: "Lightweight Metadata-Aware Mixture-of-Experts Masked Autoencoder for Earth Observation" (arXiv 2509.10919), table of
model sizes, and the shapes of the published weights.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

NUM_METADATA_TOKENS = 4  # week, hour, latitude, longitude
NUM_PREFIX_TOKENS = NUM_METADATA_TOKENS + 1  # and CLS

# width, depth, expert width of the first and of the last layer, heads, groups. `tiny` is for tests and trials.
SIZES: dict[str, dict[str, int]] = {
    "S": dict(width=144, depth=15, expert_width_first=144, expert_width_last=72, num_heads=8, num_groups=4),
    "XS": dict(width=128, depth=12, expert_width_first=96, expert_width_last=32, num_heads=8, num_groups=4),
    "XXS": dict(width=108, depth=9, expert_width_first=81, expert_width_last=27, num_heads=6, num_groups=3),
    "tiny": dict(width=16, depth=3, expert_width_first=16, expert_width_last=8, num_heads=4, num_groups=2, decoder_width=12),
}

DISPATCHES = ("auto", "dense", "sparse", "ragged", "blocked")
LOAD_ESTIMATORS = ("reference", "shazeer")
DTYPES = ("float32", "bfloat16")
MISSING_METADATA = ("zero", "learned")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the architecture of the masked autoencoder, and nothing about its training data."""

    width: int = 144  # of a token, D
    depth: int = 15  # number of encoder blocks, a multiple of the number of stages
    expert_width_first: int = 144  # hidden width F of the experts of the first block; it falls linearly from there
    expert_width_last: int = 72  # to the last block: int((depth-1-i)/(depth-1)*(first-last)) + last
    num_heads: int = 8  # query heads
    num_groups: int = 4  # key/value heads, each shared by num_heads // num_groups query heads
    stage_experts: tuple[int, ...] = (3, 4, 5)  # experts per block in each of the equally deep stages
    top_k: int = 2  # experts chosen for a token, at most the smallest number of experts
    img_size: int = 40  # side of the square input, in pixels
    patch_size: int = 4  # side of a patch, in pixels
    in_channels: int = 7  # bands
    share_projections: bool = True  # V and W2 are one for all experts of a block (published), or one for each
    load_estimator: str = "reference"  # published, or "shazeer" (Shazeer et al. 2017, eq. 8-9)
    dispatch: str = "auto"  # how experts are computed, see `geomoe.models.experts.mix_experts`; the result is the same
    dropout: float = 0.1  # rate on the output of each mixture, in training
    dtype: str = "float32"  # or "bfloat16", of activations and matmuls; parameters, router and softmax are always float32
    decoder_width: int = 108  # the decoder's experts are half as wide as its tokens
    decoder_depth: int = 2
    decoder_experts: int = 3
    decoder_heads: int = 6
    decoder_groups: int = 3
    decoder_balance: bool = False  # whether the decoder's balance losses count (the published loss has the encoder's alone)
    mask_ratio: float = 0.75  # fraction of patches hidden from the encoder in pretraining
    # What stands for a missing week, hour, latitude or longitude: "zero", the projection of [0, 0], which is its bias
    # (published), or "learned", a token of its own.
    missing_metadata: str = "zero"
    # A bias that only ranks experts, and that training moves to balance their use (`geomoe.models.router.balanced_bias`).
    selection_bias: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stage_experts", tuple(self.stage_experts))
        sides = ("img_size", "patch_size", "in_channels")
        widths = ("width", "depth", "expert_width_first", "expert_width_last", "decoder_width", "num_heads", "decoder_heads")
        for name in (*widths, *sides):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if self.decoder_depth < 0:
            raise ValueError(f"model.decoder_depth = {self.decoder_depth} must be 0 or more")
        stages = len(self.stage_experts)
        if not stages or self.depth % stages:
            multiple = f"must be a multiple of the number of stages, {stages} (stage_experts = {self.stage_experts})"
            raise ValueError(f"model.depth = {self.depth} {multiple}")
        for names in (("num_heads", "num_groups", "width"), ("decoder_heads", "decoder_groups", "decoder_width")):
            heads, groups, width = values = tuple(getattr(self, name) for name in names)
            if groups < 1 or heads % groups or width % heads:
                part = f"model.({', '.join(names)}) = {values}"
                raise ValueError(f"{part}: groups must divide heads, and heads must divide width")
        fewest = min(*self.stage_experts, self.decoder_experts)
        if not 1 <= self.top_k <= fewest:
            raise ValueError(f"model.top_k = {self.top_k} must be between 1 and the fewest experts of a block, {fewest}")
        if self.img_size % self.patch_size:
            raise ValueError(f"model.img_size = {self.img_size} is not a multiple of model.patch_size = {self.patch_size}")
        if not 0 < self.mask_ratio < 1 or self.num_visible < 1:
            raise ValueError(f"model.mask_ratio = {self.mask_ratio} leaves {self.num_visible} of {self.num_patches} patches")
        choices = dict(load_estimator=LOAD_ESTIMATORS, dispatch=DISPATCHES, dtype=DTYPES, missing_metadata=MISSING_METADATA)
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"model.{name} = {getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout = {self.dropout} must be in [0, 1)")

    @property
    def num_patches(self) -> int:
        """Number of patches of an image, P."""
        return (self.img_size // self.patch_size) ** 2

    @property
    def num_visible(self) -> int:
        """Number of patches that the encoder sees in pretraining: int(P * (1 - mask_ratio))."""
        return int(self.num_patches * (1 - self.mask_ratio) + 1e-6)

    @property
    def num_tokens(self) -> int:
        """Number of encoder tokens of a whole image: 4 metadata tokens, CLS, patches."""
        return NUM_PREFIX_TOKENS + self.num_patches

    def num_experts(self, layer: int) -> int:
        """Number of experts E of encoder block `layer`, counted from 0."""
        return self.stage_experts[layer // (self.depth // len(self.stage_experts))]

    def expert_width(self, layer: int) -> int:
        """Hidden width F of the experts of encoder block `layer`."""
        first, last = self.expert_width_first, self.expert_width_last
        fraction = (self.depth - 1 - layer) / (self.depth - 1) if self.depth > 1 else 1.0
        return int(fraction * (first - last)) + last

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict()`'s form, or a config's `model` section, where `size` may name a published size.

        >>> ModelConfig.from_dict({"size": "XS", "top_k": 1}).width
        128
        """
        fields = {key: value for key, value in values.items() if key != "size"}
        names = [field.name for field in dataclasses.fields(cls)]
        for key in fields:
            if key not in names:
                raise ValueError(f"unknown key model.{key}; known keys: size, {', '.join(names)}")
        size = values.get("size") or "custom"
        if size != "custom" and size not in SIZES:
            raise ValueError(f"model.size = {size!r} is not one of {', '.join(SIZES)}, custom")
        return cls(**{**SIZES.get(size, {}), **{key: value for key, value in fields.items() if value is not None}})

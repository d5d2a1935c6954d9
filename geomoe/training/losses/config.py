"""What a step minimises: the `loss` section of a config."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

from geomoe.metadata import FIELDS
from geomoe.models import ModelConfig
from geomoe.training.losses import OBJECTIVES
from geomoe.training.losses.objective import Objective


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The loss of a step: masked + `unmasked_weight` * unmasked + `balance_weight` * balance + the weighted objectives.

    The defaults are the published recipe, in which no objective has a weight.
    """

    unmasked_weight: float = 0.1  # of visible patches
    balance_weight: float = 0.5  # of the routers' balance losses
    normalise_targets: bool = False  # each target patch by its own mean and standard deviation
    # Whether pixels without data neither speak to the encoder (see `geomoe.models.Encoder`) nor count as targets.
    valid_pixels: bool = False
    decoded_views: int = 2  # of two crops of a place, how many the decoder reconstructs
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)  # objective -> weight, 0 for none
    options: Mapping[str, float] = dataclasses.field(default_factory=dict)  # further keys of the objectives

    def __post_init__(self) -> None:
        names = {"unmasked": self.unmasked_weight, "balance": self.balance_weight, **self.weights}
        for name, value in names.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"config.loss.{name}_weight = {value} must be 0 or more")
        if self.decoded_views not in (1, 2):
            raise ValueError(f"config.loss.decoded_views = {self.decoded_views} must be 1 or 2")
        if not 0 < self.options.get("info_nce_temperature", 1) < math.inf:
            raise ValueError(f"config.loss.info_nce_temperature = {self.options['info_nce_temperature']} must be above 0")
        for name in ("info_nce_dim", "metadata_given_share"):
            if not 0 <= self.options.get(name, 0) < math.inf:
                raise ValueError(f"config.loss.{name} = {self.options[name]} must be 0 or more")
        if not 0 <= self.options.get("teacher_momentum", 0) < 1:
            raise ValueError(f"config.loss.teacher_momentum = {self.options['teacher_momentum']} must be in [0, 1)")

    @classmethod
    def default_section(cls) -> dict[str, Any]:
        """Every key of the `loss` section, with its default."""
        section = {key: value for key, value in dataclasses.asdict(cls()).items() if key not in ("weights", "options")}
        for objective in OBJECTIVES:
            section |= {objective.weight_key: 0.0, **objective.options}
        return section

    @classmethod
    def from_section(cls, section: Mapping[str, Any]) -> Self:
        """The `loss` section of a config; keys that it lacks have their defaults.

        Raises:
            ValueError: a key is unknown, or a value makes no sense.

        >>> LossConfig.from_section({"info_nce_weight": 1.0}).views
        2
        """
        values = cls.default_section()
        for key in section:
            if key not in values:
                raise ValueError(f"unknown key config.loss.{key}; known keys: {', '.join(values)}")
        values |= section
        weights = {objective.name: values.pop(objective.weight_key) for objective in OBJECTIVES}
        options = {key: values.pop(key) for objective in OBJECTIVES for key in objective.options}
        return cls(**values, weights=weights, options=options)

    @property
    def active(self) -> list[tuple[Objective, float]]:
        """The objectives that have a weight, with it."""
        return [(objective, self.weights[objective.name]) for objective in OBJECTIVES if self.weights.get(objective.name)]

    @property
    def of_batches(self) -> frozenset[str]:
        """The losses whose value depends on the size of a batch: no means over its examples."""
        return frozenset({"balance", *(objective.name for objective, _ in self.active if not objective.per_example)})

    @property
    def views(self) -> int:
        """Crops of each place that a step needs."""
        return max([objective.views for objective, _ in self.active], default=1)

    @property
    def needs_teacher(self) -> bool:
        """Whether the state has to carry an average of past encoders."""
        return any(objective.needs_teacher for objective, _ in self.active)

    def heads(self, model: ModelConfig) -> dict[str, tuple[int, int]]:
        """The linear heads of the active objectives: name -> (in, out)."""
        heads = {objective.name: objective.head(model, self.options) for objective, _ in self.active if objective.head}
        return {name: sizes for name, sizes in heads.items() if sizes[1]}

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """The parts of a batch that a step reads."""
        extra = dict.fromkeys(key for objective, _ in self.active for key in objective.batch_keys)
        if self.valid_pixels:
            extra["valid"] = None
        if self.views == 2:
            extra["second_view"] = None
            if "valid" in extra:
                extra["second_valid"] = None
        return ("image", *FIELDS, *extra)

"""Learning rate and optimizer of the published recipe."""

import ml_collections
import optax


def warmup_cosine(base_lr: float, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Linear from 0 to `base_lr` in `warmup_steps` steps, then half a cosine to 0 at `total_steps`.

    >>> float(warmup_cosine(1.0, 100, 10)(5))
    0.5
    """
    return optax.warmup_cosine_decay_schedule(0.0, base_lr, warmup_steps, max(total_steps, warmup_steps + 1))


def router_noise_schedule(end: float, total_steps: int) -> optax.Schedule:
    """Step -> factor of the routers' noise, falling linearly from 1 to `end` at the last step."""
    return optax.linear_schedule(1.0, end, max(total_steps - 1, 1))


def build_optimizer(config: ml_collections.ConfigDict, total_steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW after clipping by the global norm, and its schedule. `config` is the `optimizer` section.

    Weight decay acts on every parameter, as PyTorch's AdamW does by default. The parameters are updated as one flat vector,
    which compiles to a few loops where a tree of several hundred arrays takes a few each.
    """
    schedule = warmup_cosine(config.lr, total_steps, int(config.warmup_fraction * total_steps))
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    adamw = optax.adamw(schedule, b1=config.b1, b2=config.b2, eps=1e-8, weight_decay=config.weight_decay)
    return optax.flatten(optax.chain(clip, adamw)), schedule

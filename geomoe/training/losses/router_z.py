"""Router z-loss: keeps the routers' logits small."""

from geomoe.training.losses.objective import Objective

# The sum over the blocks of `geomoe.models.router.router_z_loss`, which the forward pass computes.
OBJECTIVE = Objective("router_z", "router z-loss", lambda inputs: inputs.out.router_z_loss, held_out=False)

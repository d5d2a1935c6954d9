"""How fast geomoe is on this machine, part by part, beside the machine's own matmul."""

from geomoe.benchmark.flops import decoder_flops, encoder_flops, training_flops
from geomoe.benchmark.parts import PARTS

__all__ = ["PARTS", "decoder_flops", "encoder_flops", "training_flops"]

"""A pretrained encoder in its user's hands: load it, embed images and scenes in memory, see what it sees."""

from geomoe.pretrained.encoder import PretrainedEncoder as PretrainedEncoder, embed_in_batches as embed_in_batches
from geomoe.pretrained.loading import load as load

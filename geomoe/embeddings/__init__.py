"""Embeddings of whole datasets, folders and scenes, to files and back."""

from geomoe.embeddings.extract import Sink, embed_dataset, embed_folder, embed_scene
from geomoe.embeddings.files import read, read_features

__all__ = ["Sink", "embed_dataset", "embed_folder", "embed_scene", "read", "read_features"]

"""Embeddings of whole datasets, folders and scenes, to files and back."""

from etils import epy as _epy

with _epy.lazy_api_imports(globals()):
    from geomoe.embeddings.files import read as read, read_features as read_features
    from geomoe.embeddings.patches import embed_dataset as embed_dataset, embed_folder as embed_folder
    from geomoe.embeddings.scene import embed_scene as embed_scene
    from geomoe.embeddings.search import SearchIndex as SearchIndex
    from geomoe.embeddings.sink import Sink as Sink
    from geomoe.embeddings.stack import embed_stack as embed_stack

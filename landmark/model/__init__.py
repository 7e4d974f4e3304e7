"""Models: backbone, neck and the embedder they form with a pooling. Registers FishNet with timm."""

from landmark.model import fishnet
from landmark.model.backbone import Backbone, Features
from landmark.model.build import build_embedder
from landmark.model.embedder import Embedder
from landmark.model.persist import (
    embedder_digest,
    embedder_state,
    load_embedder,
    write_embedder,
)

__all__ = [
    "Backbone",
    "Embedder",
    "Features",
    "build_embedder",
    "embedder_digest",
    "embedder_state",
    "fishnet",
    "load_embedder",
    "write_embedder",
]

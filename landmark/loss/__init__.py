"""Classification losses over landmarks: `loss(embeddings (B, D), labels (B,))` gives a scalar."""

from landmark.loss.adacos import AdaCos
from landmark.loss.arcface import ArcFace
from landmark.loss.cosface import CosFace
from landmark.loss.softmax import Softmax

__all__ = ["AdaCos", "ArcFace", "CosFace", "Softmax"]

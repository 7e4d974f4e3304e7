"""How the softmax of a margin loss over many classes is computed."""

from landmark.head.class_parallel import ClassParallel
from landmark.head.full import Full
from landmark.head.fused import Fused
from landmark.head.sampled import Sampled

__all__ = ["ClassParallel", "Full", "Fused", "Sampled"]

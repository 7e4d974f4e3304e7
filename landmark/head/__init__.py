"""How the softmax over many classes is computed: what a margin loss does with all its centres."""

from landmark.head.class_parallel import ClassParallel
from landmark.head.full import Full
from landmark.head.fused import Fused
from landmark.head.sampled import Sampled

__all__ = ["ClassParallel", "Full", "Fused", "Sampled"]

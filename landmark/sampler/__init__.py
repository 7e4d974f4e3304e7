"""Batch samplers: the photos of each batch on each process."""

from landmark.sampler.aspect import Aspect
from landmark.sampler.balanced import Balanced
from landmark.sampler.per_class import PerClass
from landmark.sampler.shuffle import Shuffle

__all__ = ["Aspect", "Balanced", "PerClass", "Shuffle"]

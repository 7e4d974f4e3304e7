"""A world of drawn landmarks: small, quick to make, and free of anybody's rights."""

from landmark.toy.world import ToyWorld

__all__ = ["ToyWorld"]

"""A data set of drawn landmarks: small, quick to generate and free of copyright."""

from landmark.toy.world import ToyWorld

__all__ = ["ToyWorld"]

"""Models that score two photos by their local descriptors; training and inference."""

from landmark.pair.ames import AMES
from landmark.pair.chamfer import chamfer
from landmark.pair.elvis import ELViS

__all__ = ["AMES", "ELViS", "chamfer"]

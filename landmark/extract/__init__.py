"""From photos to stored descriptors, at several scales."""

from landmark.extract.multiscale import MultiScale

__all__ = ["MultiScale"]

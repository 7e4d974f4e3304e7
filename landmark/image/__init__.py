"""Decode photo files and resize them to the input sizes of a network."""

from landmark.image.decode import decode, read_size, resize
from landmark.image.format import ImageFormat
from landmark.image.longest_side import LongestSide

__all__ = ["ImageFormat", "LongestSide", "decode", "read_size", "resize"]

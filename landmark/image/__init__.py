"""Photo files to pixels of the sizes that networks take."""

from landmark.image.decode import decode, read_size, resize
from landmark.image.format import ImageFormat

__all__ = ["ImageFormat", "decode", "read_size", "resize"]

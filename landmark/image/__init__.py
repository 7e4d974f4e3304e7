"""Decode photo files and resize them to the input sizes of a network."""

from typing import TYPE_CHECKING, Any

from landmark.image.decode import decode, read_size, resize

if TYPE_CHECKING:
    from landmark.image.format import ImageFormat
    from landmark.image.longest_side import LongestSide

__all__ = ["ImageFormat", "LongestSide", "decode", "read_size", "resize"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import the formats on first use: reading files and tables needs no torch."""
    if name == "ImageFormat":
        from landmark.image.format import ImageFormat

        return ImageFormat
    if name == "LongestSide":
        from landmark.image.longest_side import LongestSide

        return LongestSide
    raise AttributeError(name)

"""Photos in their own proportions, resized to a length of the longer side."""

from typing import Unpack

import numpy as np

from landmark.image.decode import Size
from landmark.image.format import FormatOptions, ImageFormat, Side
from landmark.settings import checked

_BITS = 20


class LongestSide(ImageFormat):
    """Photos in their own proportions, as in the evaluation on ROxford and RParis.

    Each size is a group, so that only photos of one size are stacked.

    Args:
        side: Length of the longer side in pixels at scale 1. Sides are rounded to multiples of
            `multiple` and are at least `smallest`.
        **options: See `FormatOptions`.

    Raises:
        UserError: A setting is not valid.

    Source:
        Radenović et al., Revisiting Oxford and Paris, CVPR 2018, section 5: photos of at most
        1024 pixels, descriptors of the scales 1/√2, 1 and √2.

    Example:
        >>> image = LongestSide(1024)
        >>> group = int(image.groups(np.array([1600]), np.array([1000]))[0])
        >>> image.size(group), image.representative_size
        ((1024, 640), (1024, 1024))
    """

    @checked
    def __init__(self, side: Side = 1024, **options: Unpack[FormatOptions]) -> None:
        super().__init__([(side, side)], **options)
        self.side = side

    @property
    def is_uniform(self) -> bool:
        """Return False: sizes differ with the photos' proportions."""
        return False

    @property
    def representative_size(self) -> Size:
        """The size of a square photo."""
        return self.size(int(self.groups(np.ones(1), np.ones(1))[0]))

    def groups(self, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Return the group of each photo (N,): width and height in one number."""
        sides = np.stack([np.asarray(widths, np.float64), np.asarray(heights, np.float64)])
        scaled = sides * self.side / sides.max(axis=0)
        rounded = np.maximum(np.rint(scaled / self.multiple) * self.multiple, self.smallest)
        width, height = rounded.astype(np.int64)
        return (width << _BITS) | height

    def size(self, group: int) -> Size:
        """Return (width, height) of the group's images."""
        return group >> _BITS, group & ((1 << _BITS) - 1)

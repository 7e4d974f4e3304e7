"""Photos in their own proportions, the longer side at a given length."""

import numpy as np

from landmark.error import UserError
from landmark.image.decode import Size
from landmark.image.format import ImageFormat

_BITS = 20


class LongestSide(ImageFormat):
    """Each photo at its own proportions: the format in which ROxford and RParis are compared.

    A group is a size, so that only photos of one size are stacked.

    Args:
        side: length of the longer side in pixels at scale 1.
        multiple: sides are rounded to multiples of this, at scales other than 1 floored.
        smallest: and are at least this.
        augmentation: see `ImageFormat`.
        flip: see `ImageFormat`.
        interpolation: see `ImageFormat`.

    Raises:
        UserError: a side below 1, or an unknown choice.

    Source:
        Radenović et al., Revisiting Oxford and Paris, CVPR 2018, section 5: photos of at most
        1024 pixels, descriptors of the scales 1/√2, 1 and √2.
    """

    def __init__(
        self,
        side: int = 1024,
        *,
        multiple: int = 32,
        smallest: int = 128,
        augmentation: str = "none",
        flip: float | None = None,
        interpolation: str | None = None,
    ) -> None:
        if side < 1:
            raise UserError(f"image.side={side}: give a number of pixels")
        super().__init__(
            [(side, side)],
            augmentation=augmentation,
            flip=flip,
            interpolation=interpolation,
            multiple=multiple,
            smallest=smallest,
        )
        self.side = side

    @property
    def is_uniform(self) -> bool:
        """Sizes differ with the photos' proportions."""
        return False

    def groups(self, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Return each photo's group (N,): its size, width and height in one number."""
        sides = np.stack([np.asarray(widths, np.float64), np.asarray(heights, np.float64)])
        scaled = sides * self.side / sides.max(axis=0)
        rounded = np.maximum(np.rint(scaled / self.multiple) * self.multiple, self.smallest)
        width, height = rounded.astype(np.int64)
        return (width << _BITS) | height

    def size(self, group: int) -> Size:
        """Return (width, height) of the group's images."""
        return group >> _BITS, group & ((1 << _BITS) - 1)

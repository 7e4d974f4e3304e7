"""The input sizes of a network, one for each group of aspect ratios."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypedDict

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from landmark.error import UserError
from landmark.image.augment import AUGMENTATIONS, AugmentationName, apply_view, draw_view
from landmark.image.decode import Box, Interpolation, Size, decode, decoded_size
from landmark.image.resample import resample
from landmark.settings import checked

Fit = Literal["squash", "crop"]
Probability = Annotated[float, Field(ge=0, le=1)]
# About 25,000 pixels per photo.
XS = [(192, 128), (192, 160), (160, 160), (160, 192), (128, 192)]
# A photo of the largest size has 200 MB.
Side = Annotated[int, Field(gt=0, le=8192)]
WidthHeight = Annotated[tuple[Side, Side], Field(description="[width, height] of 1 to 8192 pixels")]


class FormatOptions(TypedDict, total=False):
    """Options of every image format.

    Attributes:
        augmentation: Augmentation of training images: "none"; "soft" (each side cropped or padded
            to 1 ± 0.2, brightness ± 0.1 for half of the photos); "middle" (sides ± 0.3, shear ± 4
            degrees, brightness and contrast ± 0.1); "randaugment" (soft's crops and two operations
            of magnitude 9); "strong" (random resized crop of 0.2 to 1 of the area, flip, colour
            ± 0.3, sometimes greyscale, sometimes a rectangle erased).
        flip: Probability of mirroring a training image. Defaults to that of the augmentation (0.5
            for "strong", else 0).
        interpolation: Resampling filter, antialiased. Defaults to "bilinear"; the commands pass
            the backbone's own instead.
        multiple: Sides at scales other than 1 are rounded down to multiples of this.
        smallest: Lower bound of the sides at scales other than 1.
    """

    augmentation: AugmentationName
    flip: Probability | None
    interpolation: Interpolation | None
    multiple: Side
    smallest: Side


class ImageFormat:
    """Converts photos to uint8 tensors (3, h, w) of the size of their aspect group.

    Args:
        sizes: [width, height] of each aspect group, the widest first. With one entry every photo
            gets this size, and `cuts` is ignored. Defaults to `XS`.
        cuts: Ascending values of height / width that separate the groups; a ratio equal to a cut
            belongs to the narrower group.
        fit: "squash" resizes both sides independently and loses nothing of a photo: for retrieval,
            where the landmark may be at the edge. "crop" keeps the photo's proportions and takes
            the centre, as in the evaluation of ImageNet classifiers.
        augmentation, flip, interpolation, multiple, smallest: See `FormatOptions`.

    Raises:
        UserError: A setting is not valid, or sizes and cuts do not fit together.

    Example:
        >>> image = ImageFormat([[96, 64], [64, 96]], cuts=[1.0], multiple=16, smallest=32)
        >>> groups = image.groups(np.array([640, 480]), np.array([480, 640]))
        >>> [image.size(group) for group in groups.tolist()]
        [(96, 64), (64, 96)]
        >>> image.scaled_size(0, 0.75)
        (64, 48)
    """

    @checked
    def __init__(
        self,
        sizes: Annotated[Sequence[WidthHeight], Field(min_length=1)] | None = None,
        cuts: Sequence[float] = (0.67, 0.77, 1.33, 1.5),
        *,
        augmentation: AugmentationName = "none",
        flip: Probability | None = None,
        interpolation: Interpolation | None = None,
        fit: Fit = "squash",
        multiple: Side = 32,
        smallest: Side = 128,
    ) -> None:
        self.sizes: list[Size] = [(int(width), int(height)) for width, height in sizes or XS]
        self.cuts = _validated_cuts(cuts, len(self.sizes))
        self.interpolation: Interpolation = interpolation or "bilinear"
        self.fit = fit
        self.multiple = multiple
        self.smallest = smallest
        self._augmentation = AUGMENTATIONS[augmentation]
        if flip is not None:
            self._augmentation = dataclasses.replace(self._augmentation, flip=flip)

    @property
    def is_uniform(self) -> bool:
        """Whether every photo gets the same size."""
        return len(self.sizes) == 1

    @property
    def representative_size(self) -> Size:
        """The (width, height) for which a network of one fixed size is built and exported."""
        return self.sizes[0]

    def groups(self, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Return the aspect groups (N,), 0 the widest, of photos with sides in pixels (N,)."""
        ratios = np.asarray(heights, np.float64) / np.asarray(widths, np.float64)
        return np.searchsorted(self.cuts, ratios, side="right").astype(np.int64)

    def size(self, group: int) -> Size:
        """Return (width, height) of the group's images."""
        return self.sizes[group]

    def scaled_size(self, group: int, scale: float) -> Size:
        """Return the group's (width, height) times `scale`.

        Unless the scale is 1, each side is rounded down to a multiple of `multiple`, but is at
        least `smallest`.
        """
        width, height = self.size(group)
        if scale == 1:
            return width, height
        # 1e-9 absorbs the rounding error of products such as 160 * 0.7 / 0.7.
        return tuple(  # type: ignore[return-value]
            max(int(side * scale / self.multiple + 1e-9) * self.multiple, self.smallest)
            for side in (width, height)
        )

    def image(self, path: str | Path, size: Size, box: Box | None = None) -> torch.Tensor:
        """Return the photo, or its `box`, as a uint8 tensor (3, h, w) of `size` (w, h)."""
        return self.images(path, [size], box)[0]

    def images(
        self, path: str | Path, sizes: Sequence[Size], box: Box | None = None
    ) -> list[torch.Tensor]:
        """Return the photo, or its `box`, at several sizes (w, h), decoding it once."""
        return self._resampled(decode(path, _largest(sizes), box), sizes)

    def images_and_photo(
        self,
        path: str | Path,
        sizes: Sequence[Size],
        photo_size: Size | None,
        box: Box | None = None,
    ) -> tuple[list[torch.Tensor], Image.Image]:
        """Return `images`, and the photo, or its `box`, decoded for `photo_size` (see `decode`).

        Both equal those of separate calls. The photo is decoded once, unless it is a large JPEG
        of which the images need a smaller scale.
        """
        photo = decode(path, photo_size, box)
        largest = _largest(sizes)
        is_same = decoded_size(path, largest, box) == decoded_size(path, photo_size, box)
        return self._resampled(photo if is_same else decode(path, largest, box), sizes), photo

    def _resampled(self, photo: Image.Image, sizes: Sequence[Size]) -> list[torch.Tensor]:
        return [
            resample(photo, size, self.interpolation, self.frame(photo.size, size))
            for size in sizes
        ]

    def train_image(
        self, path: str | Path, group: int, rng_seed: int | Sequence[int], box: Box | None = None
    ) -> torch.Tensor:
        """Return an augmented view as a uint8 tensor (3, h, w) of the group's size.

        The view depends only on `rng_seed`, one or several integers.
        """
        size = self.size(group)
        view = draw_view(self._augmentation, np.random.default_rng(rng_seed))
        width, height = view.box[2] - view.box[0], view.box[3] - view.box[1]
        photo = decode(path, (round(size[0] / width), round(size[1] / height)), box)
        return apply_view(photo, view, size, self.interpolation, self.frame(photo.size, size))

    def frame(self, photo_size: Size, size: Size) -> Box:
        """Return the part of a photo (w, h) to resize: all, or the centre of `size`'s shape."""
        width, height = photo_size
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        scale = min(width / size[0], height / size[1])
        left, top = (width - size[0] * scale) / 2, (height - size[1] * scale) / 2
        return left, top, left + size[0] * scale, top + size[1] * scale


def _largest(sizes: Sequence[Size]) -> Size:
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def _validated_cuts(cuts: Sequence[float], groups: int) -> np.ndarray:
    """Return the cuts, (groups - 1,)."""
    if groups == 1:
        return np.empty(0)
    if len(cuts) != groups - 1 or sorted(cuts) != list(cuts):
        raise UserError(
            f"image.cuts={list(cuts)} does not fit {groups} sizes. Pass {groups - 1} ascending "
            "numbers."
        )
    return np.asarray(cuts, np.float64)

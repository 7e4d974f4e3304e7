"""The sizes at which photos enter a network, one for each group of aspect ratios."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from landmark.error import UserError
from landmark.image.augment import AUGMENTATIONS, apply_view, draw_view
from landmark.image.decode import INTERPOLATIONS, Box, Size, decode
from landmark.image.resample import resample

FITS = ("squash", "crop")


class ImageFormat:
    """Photos to uint8 tensors (3, h, w) of the size that their aspect group has.

    Args:
        sizes: [width, height] of each aspect group, the widest first. One entry: every photo gets
            this size, and `cuts` does not matter.
        cuts: ascending values of height / width that part the groups; a ratio equal to a cut
            belongs to the narrower group.
        augmentation: of training images: "none"; "soft" (view of 1 ± 0.2 of each side, brightness
            ± 0.1 for half of the photos); "middle" (± 0.3, shear ± 4 degrees, brightness and
            contrast ± 0.1); "randaugment" (soft's views and two operations of magnitude 9);
            "strong" (random resized crop of 0.2 to 1 of the area, flip, colour ± 0.3, sometimes
            grey, sometimes a rectangle erased).
        flip: probability of mirroring a training image; none: the augmentation's own (0.5 for
            "strong", else 0).
        interpolation: "bilinear", "bicubic", "area" or "lanczos", all low-pass filtered; none:
            "bilinear". The scripts put the backbone's own in place of none.
        fit: "squash" scales both sides freely, so that nothing of a photo is lost: the choice for
            retrieval, where the landmark may stand at the edge. "crop" keeps the photo's
            proportions and takes the centre, as ImageNet classifiers are tested.
        multiple: sides at scales other than 1 are floored to multiples of this.
        smallest: and are at least this.

    Raises:
        UserError: sizes and cuts do not belong together, or a choice is unknown.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        cuts: Sequence[float] = (0.67, 0.77, 1.33, 1.5),
        *,
        augmentation: str = "none",
        flip: float | None = None,
        interpolation: str | None = None,
        fit: str = "squash",
        multiple: int = 32,
        smallest: int = 128,
    ) -> None:
        self.sizes: list[Size] = [_checked_size(size) for size in sizes]
        self.cuts = _checked_cuts(cuts, len(self.sizes))
        _check_choice("augmentation", augmentation, tuple(AUGMENTATIONS))
        interpolation = interpolation or "bilinear"
        _check_choice("interpolation", interpolation, INTERPOLATIONS)
        _check_choice("fit", fit, FITS)
        if flip is not None and not 0 <= flip <= 1:
            raise UserError(f"image.flip={flip}: a probability lies between 0 and 1")
        self.augmentation = augmentation
        self.interpolation = interpolation
        self.fit = fit
        self.multiple = multiple
        self.smallest = smallest
        self._views = AUGMENTATIONS[augmentation]
        if flip is not None:
            self._views = dataclasses.replace(self._views, flip=flip)

    @property
    def is_uniform(self) -> bool:
        """Whether every photo gets the same size."""
        return len(self.sizes) == 1

    def groups(self, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Return each photo's aspect group (N,), 0 = the widest, from its sides in pixels (N,)."""
        ratios = np.asarray(heights, np.float64) / np.asarray(widths, np.float64)
        return np.searchsorted(self.cuts, ratios, side="right").astype(np.int64)

    def size(self, group: int) -> Size:
        """Return (width, height) of the group's images."""
        return self.sizes[group]

    def scaled_size(self, group: int, scale: float) -> Size:
        """Return the group's (width, height) at a scale; scale 1 gives the size itself.

        Else each side is floored to a multiple of `multiple` and is at least `smallest`.
        """
        width, height = self.size(group)
        if scale == 1:
            return width, height
        # The 1e-9 keeps products such as 160 * 0.7 / 0.7 from falling under their own value.
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
        """Return the photo at several sizes (w, h), each resized from one decoding."""
        largest = (max(width for width, _ in sizes), max(height for _, height in sizes))
        photo = decode(path, largest, box)
        return [
            resample(photo, size, self.interpolation, self._frame(photo, size)) for size in sizes
        ]

    def train_image(
        self,
        path: str | Path,
        group: int,
        rng_seed: int | Sequence[int],
        box: Box | None = None,
    ) -> torch.Tensor:
        """Return an augmented view as a uint8 tensor (3, h, w) of the group's size.

        The view depends on `rng_seed` (one or several integers) alone.
        """
        size = self.size(group)
        view = draw_view(self._views, np.random.default_rng(rng_seed))
        width, height = view.box[2] - view.box[0], view.box[3] - view.box[1]
        photo = decode(path, (round(size[0] / width), round(size[1] / height)), box)
        frame = self._frame(photo, size)
        return apply_view(photo, view, size, self.interpolation, frame)

    def _frame(self, photo: Image.Image, size: Size) -> Box:
        """Return the part of the photo that becomes the image: all, or the centre of its shape."""
        width, height = photo.size
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        scale = min(width / size[0], height / size[1])
        left, top = (width - size[0] * scale) / 2, (height - size[1] * scale) / 2
        return left, top, left + size[0] * scale, top + size[1] * scale


def _check_choice(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise UserError(f"image.{key}={value}: choose one of {', '.join(valid)}")


def _checked_size(size: Sequence[int]) -> Size:
    if len(size) != 2 or min(size) < 1:
        raise UserError(f"image.sizes: {list(size)} is not [width, height]")
    return int(size[0]), int(size[1])


def _checked_cuts(cuts: Sequence[float], groups: int) -> np.ndarray:
    """Return the cuts (groups - 1,); none for a single group."""
    if groups == 1:
        return np.empty(0)
    if len(cuts) != groups - 1 or sorted(cuts) != list(cuts):
        raise UserError(f"image.cuts={list(cuts)}: {groups} sizes need {groups - 1} ascending cuts")
    return np.asarray(cuts, np.float64)

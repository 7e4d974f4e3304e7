"""Random views of a photo for training: what is drawn, and how it is applied to pixels.

`soft` and `middle` follow the released code of the first place in Google Landmark Retrieval 2019
(Ozaki and Yokoo, arXiv 1906.04087).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from landmark.image.colour import brightened, contrasted, saturated
from landmark.image.decode import Box, Size
from landmark.image.resample import resample, to_image, to_tensor

_MID_GREY = 128


@dataclass(frozen=True)
class Augmentation:
    """Ranges from which one view of a photo is drawn.

    Attributes:
        crop: each side of the view is the photo's times 1 ± crop; beyond the photo it is black.
        area: (least, most) share of the photo's area that the view keeps instead, its aspect
            ratio changed by 3/4 to 4/3 (random resized crop, Szegedy et al., arXiv 1409.4842).
        shear: degrees along x, ± shear.
        brightness, contrast, saturation: factors 1 ± the value.
        colour_probability: how often the three are applied.
        randaugment: two operations of magnitude 9 (Cubuk et al., arXiv 1909.13719) come on top.
        flip: probability of a mirrored view.
        grey: probability of a view without colour.
        erasing: probability that a rectangle of 2 to 25 % of the view becomes mid-grey (random
            erasing, Zhong et al., arXiv 1708.04896).
    """

    crop: float = 0.0
    area: tuple[float, float] | None = None
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    colour_probability: float = 0.5
    randaugment: bool = False
    flip: float = 0.0
    grey: float = 0.0
    erasing: float = 0.0


AUGMENTATIONS = {
    "none": Augmentation(),
    "soft": Augmentation(crop=0.2, brightness=0.1),
    "middle": Augmentation(crop=0.3, shear=4.0, brightness=0.1, contrast=0.1),
    "randaugment": Augmentation(crop=0.2, randaugment=True),
    "strong": Augmentation(
        area=(0.2, 1.0),
        brightness=0.3,
        contrast=0.3,
        saturation=0.3,
        colour_probability=1.0,
        flip=0.5,
        grey=0.1,
        erasing=0.3,
    ),
}


@dataclass(frozen=True)
class View:
    """One drawn view. The box is in shares of the photo's sides and may reach beyond 0..1."""

    box: Box = (0.0, 0.0, 1.0, 1.0)
    flip: bool = False
    shear: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    randaugment_seed: int | None = None
    erased: Box | None = None


def draw_view(augmentation: Augmentation, generator: np.random.Generator) -> View:
    """Draw one view; a fixed number of random numbers is used, so settings do not shift others."""
    first = generator.random(10).tolist()
    sides, places = first[:2], first[2:4]
    shear, brightness, contrast, saturation = (2 * value - 1 for value in first[4:8])
    colour, flip = first[8:]
    seed = int(generator.integers(2**31))
    coloured = colour < augmentation.colour_probability
    grey, erasing, *rectangle = generator.random(6).tolist()
    erased = _erased_box(rectangle) if erasing < augmentation.erasing else None
    return View(
        box=_view_box(augmentation, sides, places),
        flip=bool(flip < augmentation.flip),
        shear=augmentation.shear * shear,
        brightness=1 + augmentation.brightness * brightness * coloured,
        contrast=1 + augmentation.contrast * contrast * coloured,
        saturation=0.0
        if grey < augmentation.grey
        else 1 + augmentation.saturation * saturation * coloured,
        randaugment_seed=seed if augmentation.randaugment else None,
        erased=erased,
    )


def apply_view(
    photo: Image.Image, view: View, size: Size, interpolation: str, frame: Box
) -> torch.Tensor:
    """Return the view of `frame` (a part of the RGB photo, in its pixels) as uint8 (3, h, w).

    Args:
        photo: decoded, at any scale.
        view: what was drawn.
        size: (w, h).
        interpolation: see `ImageFormat`.
        frame: (left, top, right, bottom).
    """
    pixels = _cut(photo, view.box, size, interpolation, frame)
    if view.shear:
        pixels = to_tensor(_sheared(to_image(pixels), view.shear))
    for change, factor in (
        (brightened, view.brightness),
        (contrasted, view.contrast),
        (saturated, view.saturation),
    ):
        if factor != 1:
            pixels = change(pixels, factor)
    if view.randaugment_seed is not None:
        pixels = to_tensor(_randaugmented(to_image(pixels), view.randaugment_seed))
    if view.erased is not None:
        left, right = (round(edge * size[0]) for edge in (view.erased[0], view.erased[2]))
        top, bottom = (round(edge * size[1]) for edge in (view.erased[1], view.erased[3]))
        pixels[:, top:bottom, left:right] = _MID_GREY
    return pixels.flip(2) if view.flip else pixels


def _view_box(augmentation: Augmentation, sides: list[float], places: list[float]) -> Box:
    if augmentation.area is None:
        width, height = (1 + augmentation.crop * (2 * side - 1) for side in sides)
    else:
        least, most = augmentation.area
        side = math.sqrt(least + (most - least) * sides[0])
        stretch = math.exp(math.log(4 / 3) / 2 * (2 * sides[1] - 1))
        width, height = min(1.0, side * stretch), min(1.0, side / stretch)
    # With width > 1 the free space 1 - width is negative: the photo lands anywhere in the view.
    left, top = (1 - width) * places[0], (1 - height) * places[1]
    return left, top, left + width, top + height


def _erased_box(draws: list[float]) -> Box:
    """A rectangle in shares of the view, from four numbers in [0, 1)."""
    side, stretch = math.sqrt(0.02 + 0.23 * draws[0]), math.exp(0.7 * (2 * draws[1] - 1))
    width, height = min(1.0, side * stretch), min(1.0, side / stretch)
    left, top = (1 - width) * draws[2], (1 - height) * draws[3]
    return left, top, left + width, top + height


def _cut(photo: Image.Image, box: Box, size: Size, interpolation: str, frame: Box) -> torch.Tensor:
    """Resize the box (shares of the frame) to `size`; what lies beyond the frame is black."""
    inside = tuple(min(max(edge, 0.0), 1.0) for edge in box)
    left, right = (
        round(size[0] * (edge - box[0]) / (box[2] - box[0])) for edge in (inside[0], inside[2])
    )
    top, bottom = (
        round(size[1] * (edge - box[1]) / (box[3] - box[1])) for edge in (inside[1], inside[3])
    )
    width, height = frame[2] - frame[0], frame[3] - frame[1]
    source = (
        frame[0] + inside[0] * width,
        frame[1] + inside[1] * height,
        frame[0] + inside[2] * width,
        frame[1] + inside[3] * height,
    )
    part = resample(photo, (right - left, bottom - top), interpolation, source)
    if part.shape[1:] == (size[1], size[0]):
        return part
    canvas = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
    canvas[:, top:bottom, left:right] = part
    return canvas


def _sheared(image: Image.Image, degrees: float) -> Image.Image:
    slope = math.tan(math.radians(degrees))
    matrix = (1.0, slope, -slope * image.height / 2, 0.0, 1.0, 0.0)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR
    )


def _randaugmented(image: Image.Image, seed: int) -> Image.Image:
    """Apply torchvision's RandAugment, whose draws come from torch's global generator."""
    from torchvision.transforms import InterpolationMode, v2

    transform = v2.RandAugment(interpolation=InterpolationMode.BILINEAR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)

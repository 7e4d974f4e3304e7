"""Random views of a photo for training: draw their parameters, apply them to pixels.

`soft` and `middle` follow the released code of the first place in Google Landmark Retrieval 2019
(Ozaki and Yokoo, arXiv 1906.04087).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from landmark.image.colour import brightened, contrasted, saturated
from landmark.image.decode import Box, Interpolation, Size
from landmark.image.resample import resample, to_image, to_tensor

AugmentationName = Literal["none", "soft", "middle", "randaugment", "strong"]
_MID_GREY = 128


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the parameters of a view.

    Attributes:
        crop: Each side of the view is the photo's times 1 ± crop; outside the photo it is black.
        area: Instead of `crop`: (smallest, largest) fraction of the photo's area in the view, whose
            aspect ratio changes by 3/4 to 4/3 (random resized crop, Szegedy et al., arXiv
            1409.4842).
        shear: Degrees along x, ± shear.
        brightness, contrast, saturation: Factors 1 ± the value.
        colour_probability: Probability that these three are applied.
        randaugment: Whether to add two operations of magnitude 9 (Cubuk et al., arXiv 1909.13719).
        flip: Probability of a mirrored view.
        grey: Probability of a greyscale view.
        erasing: Probability that a rectangle of 2 to 25 % of the view becomes mid-grey (random
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


AUGMENTATIONS: dict[AugmentationName, Augmentation] = {
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
    """Parameters of a view. The box is in fractions of the photo's sides and may exceed 0 to 1."""

    box: Box = (0.0, 0.0, 1.0, 1.0)
    flip: bool = False
    shear: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    randaugment_seed: int | None = None
    erased: Box | None = None


def draw_view(augmentation: Augmentation, generator: np.random.Generator) -> View:
    """Draw one view. No setting changes the random numbers that the others get."""
    draws = generator.random(10).tolist()
    shear, brightness, contrast, saturation = (2 * value - 1 for value in draws[4:8])
    colour, flip = draws[8:]
    seed = int(generator.integers(2**31))
    is_coloured = colour < augmentation.colour_probability
    grey, erasing, *rectangle = generator.random(6).tolist()
    is_grey, is_erased = grey < augmentation.grey, erasing < augmentation.erasing
    return View(
        box=_view_box(augmentation, draws[:4]),
        flip=bool(flip < augmentation.flip),
        shear=augmentation.shear * shear,
        brightness=1 + augmentation.brightness * brightness * is_coloured,
        contrast=1 + augmentation.contrast * contrast * is_coloured,
        saturation=0.0 if is_grey else 1 + augmentation.saturation * saturation * is_coloured,
        randaugment_seed=seed if augmentation.randaugment else None,
        erased=_random_box((0.02, 0.25), 0.7, rectangle) if is_erased else None,
    )


def _view_box(augmentation: Augmentation, draws: list[float]) -> Box:
    if augmentation.area is not None:
        return _random_box(augmentation.area, math.log(4 / 3) / 2, draws)
    width, height = (1 + augmentation.crop * (2 * side - 1) for side in draws[:2])
    return _placed_box(width, height, draws[2:])


def _random_box(area: tuple[float, float], log_stretch: float, draws: list[float]) -> Box:
    """Return a box with a random area and aspect ratio, from 4 uniform numbers."""
    side = math.sqrt(area[0] + (area[1] - area[0]) * draws[0])
    stretch = math.exp(log_stretch * (2 * draws[1] - 1))
    return _placed_box(min(1.0, side * stretch), min(1.0, side / stretch), draws[2:])


def _placed_box(width: float, height: float, draws: list[float]) -> Box:
    # With width > 1 the free space 1 - width is negative: the photo lands anywhere in the view.
    left, top = (1 - width) * draws[0], (1 - height) * draws[1]
    return left, top, left + width, top + height


def apply_view(
    photo: Image.Image, view: View, size: Size, interpolation: Interpolation, frame: Box
) -> torch.Tensor:
    """Apply a view to a part of an RGB photo and return it as uint8 (3, h, w).

    Args:
        photo: Decoded photo, at any scale.
        view: Parameters of the view.
        size: (w, h) of the result.
        interpolation: Resampling filter.
        frame: (left, top, right, bottom) in pixels of the photo.
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
        left, right = (round(edge * size[0]) for edge in view.erased[::2])
        top, bottom = (round(edge * size[1]) for edge in view.erased[1::2])
        pixels[:, top:bottom, left:right] = _MID_GREY
    return pixels.flip(2) if view.flip else pixels


def _cut(
    photo: Image.Image, box: Box, size: Size, interpolation: Interpolation, frame: Box
) -> torch.Tensor:
    """Resize the box (fractions of the frame) to `size`; outside the frame it is black."""
    inside = tuple(min(max(edge, 0.0), 1.0) for edge in box)
    left, right = (round(size[0] * (x - box[0]) / (box[2] - box[0])) for x in inside[::2])
    top, bottom = (round(size[1] * (y - box[1]) / (box[3] - box[1])) for y in inside[1::2])
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
    bilinear = Image.Resampling.BILINEAR
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=bilinear)


def _randaugmented(image: Image.Image, seed: int) -> Image.Image:
    """Apply torchvision's RandAugment, which uses torch's global generator."""
    from torchvision.transforms import InterpolationMode, v2

    transform = v2.RandAugment(interpolation=InterpolationMode.BILINEAR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image)

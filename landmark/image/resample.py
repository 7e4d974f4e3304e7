"""Resize a decoded photo, or a part of it, to a tensor."""

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.nn import functional

from landmark.image.decode import Box, Interpolation, Size, resize

# PyTorch has vectorised versions of these filters for bytes, twice as fast as pillow's.
_TORCH_FILTERS = {"bilinear", "bicubic"}


def resample(
    photo: Image.Image,
    size: Size,
    interpolation: Interpolation = "bilinear",
    box: Box | None = None,
) -> torch.Tensor:
    """Return `box` of the RGB photo as uint8 (3, h, w), antialiased.

    The values are within two levels of pillow's; "bicubic" differs by more where it exceeds black
    or white. "bilinear" and "bicubic" round the box to integers and ignore pixels outside it;
    "area" and "lanczos" use the exact box.

    Args:
        photo: Photo of any size.
        size: (width, height) of the result.
        interpolation: Resampling filter.
        box: (left, top, right, bottom) in pixels of the photo. Defaults to the entire photo.
    """
    if interpolation not in _TORCH_FILTERS:
        return to_tensor(resize(photo, size, interpolation, box))
    left, top, right, bottom = (0, 0, *photo.size) if box is None else _rounded_box(box, photo.size)
    part = _channels_last(photo)[top:bottom, left:right]
    shape = [size[1], size[0]]
    if list(part.shape[:2]) == shape:
        return part[..., :3].permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
    batch = part.permute(2, 0, 1)[None]
    pixels = functional.interpolate(batch, shape, mode=interpolation, antialias=True)[0, :3]
    return pixels.contiguous()


def _channels_last(photo: Image.Image) -> torch.Tensor:
    """Return the pixels (h, w, 4): a read-only view of pillow's memory, or a copy."""
    try:
        pixels = pa.array(photo)
    except ValueError:  # pillow stores photos of more than 16 MB in several blocks
        return torch.from_numpy(np.array(photo))
    return torch.from_dlpack(pixels.values).view(photo.height, photo.width, 4)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Return an RGB image as uint8 (3, h, w)."""
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def to_image(pixels: torch.Tensor) -> Image.Image:
    """Return uint8 (3, h, w) as an RGB image."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _rounded_box(box: Box, size: Size) -> tuple[int, int, int, int]:
    """Round the box to integers within the photo, at least one pixel wide and high."""
    left, right = _rounded_side(box[0], box[2], size[0])
    top, bottom = _rounded_side(box[1], box[3], size[1])
    return left, top, right, bottom


def _rounded_side(first: float, last: float, length: int) -> tuple[int, int]:
    start = min(max(round(first), 0), length - 1)
    return start, min(max(round(last), start + 1), length)

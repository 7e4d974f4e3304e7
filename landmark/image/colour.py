"""Brightness, contrast and saturation of uint8 pixels (3, h, w), exactly as in pillow."""

import numpy as np
import torch
from numpy.typing import NDArray

_LEVELS = np.arange(256, dtype=np.float32)


def brightened(pixels: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the pixels times `factor`, at most 255."""
    return _mapped(_blended(np.zeros(256, np.float32), factor), pixels)


def contrasted(pixels: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the pixels with their distance from the image's mean grey times `factor`."""
    mean = np.float32(int(float(_grey(pixels).double().mean()) + 0.5))
    return _mapped(_blended(np.full(256, mean, np.float32), factor), pixels)


def saturated(pixels: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the pixels with their distance from their own grey times `factor`; 0 gives grey."""
    grey = _grey(pixels).float()
    return pixels.float().sub_(grey).mul_(factor).add_(grey).clamp_(0, 255).to(torch.uint8)


def _blended(base: NDArray[np.float32], factor: float) -> NDArray[np.uint8]:
    """Return the look-up table of the levels, (256,)."""
    return np.clip(base + np.float32(factor) * (_LEVELS - base), 0, 255).astype(np.uint8)


def _mapped(table: NDArray[np.uint8], pixels: torch.Tensor) -> torch.Tensor:
    # The fastest look-up of bytes that Python, numpy and torch offer.
    mapped = bytearray(pixels.contiguous().numpy()).translate(table.tobytes())
    return torch.frombuffer(mapped, dtype=torch.uint8).view(pixels.shape)


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    """Return ITU-R 601 luma, int32 (h, w)."""
    red, green, blue = pixels.int()
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16

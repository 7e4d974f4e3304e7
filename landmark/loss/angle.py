"""Margins on the angle between an embedding and its class centre, said in cosines."""

import math

import torch
from torch import Tensor

from landmark.error import UserError


def check_margin(margin: float, key: str = "margin") -> None:
    """Refuses what is no angle from 0 to pi.

    Raises:
        UserError: names the key.
    """
    if not 0 <= margin <= math.pi:
        raise UserError(f"loss.{key}={margin} must be an angle from 0 to pi")


def widened(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """cos(theta + margin) of cos(theta), which rises again where theta + margin > pi.

    Args:
        cosine: (B,).
        margin: Radians, one for all or (B,).

    Returns:
        (B,).
    """
    cos, sin = _cos_and_sin(margin)
    # Rounding can take a cosine past 1, and the root has no slope at 0: both stay above eps.
    sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
    return cosine * cos - sine * sin


def plus_angle(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """cos(theta + margin) of cos(theta), continued so that it never rises.

    Where theta + margin > pi it goes on with cos(theta) - margin * sin(margin), as ArcFace's code.

    Args:
        cosine: (B,).
        margin: Radians, one for all or (B,).

    Returns:
        (B,).
    """
    cos, sin = _cos_and_sin(margin)
    turned = cosine < -cos  # theta > pi - margin
    return torch.where(turned, cosine - margin * sin, widened(cosine, margin))


def _cos_and_sin(margin: float | Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
    if isinstance(margin, Tensor):
        return margin.cos(), margin.sin()
    return math.cos(margin), math.sin(margin)


def angle_of(cosine: Tensor) -> Tensor:
    """The angle of a cosine, (B,) to (B,) radians; its slope, infinite at -1 and 1, is 0 there."""
    edge = 1 - torch.finfo(cosine.dtype).eps
    return torch.acos(cosine.clamp(-edge, edge))


def falling_cosine(angle: Tensor) -> Tensor:
    """(-1)^k * cos(angle) - 2 * k with k = floor(angle / pi), (B,) to (B,).

    The cosine up to pi, continued so that it never rises (SphereFace's psi).
    """
    half_turns = torch.floor(angle.detach() / math.pi)
    return (1 - 2 * (half_turns % 2)) * torch.cos(angle) - 2 * half_turns

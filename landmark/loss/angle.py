"""Angular margins, computed from cosines, and their monotonic continuations beyond pi."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

Angle = Annotated[float, Field(ge=0, le=math.pi, description="an angle in radians, 0 to pi")]


def shift_angle(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """Return cos(theta + margin) for cos(theta); it rises again where theta + margin > pi.

    Args:
        cosine: (B,).
        margin: Radians, a scalar or (B,).

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> [round(c, 3) for c in shift_angle(torch.tensor([1.0, 0.0, -1.0]), 0.3).tolist()]
        [0.955, -0.296, -0.955]
    """
    cos, sin = _cos_and_sin(margin)
    # Rounding can take a cosine past 1, and the root has no gradient at 0: both stay above eps.
    sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
    return cosine * cos - sine * sin


def shift_angle_monotonic(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """Return cos(theta + margin) for cos(theta), continued so that it never rises with theta.

    Where theta + margin > pi it continues as cos(theta) - margin * sin(margin), as in ArcFace's
    published code.

    Args:
        cosine: (B,).
        margin: Radians, a scalar or (B,).

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> shifted = shift_angle_monotonic(torch.tensor([1.0, 0.0, -1.0]), 0.3)
        >>> [round(c, 3) for c in shifted.tolist()]
        [0.955, -0.296, -1.089]
    """
    cos, sin = _cos_and_sin(margin)
    beyond_pi = cosine < -cos  # theta > pi - margin
    return torch.where(beyond_pi, cosine - margin * sin, shift_angle(cosine, margin))


def _cos_and_sin(margin: float | Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
    if isinstance(margin, Tensor):
        return margin.cos(), margin.sin()
    return math.cos(margin), math.sin(margin)


def angle_of(cosine: Tensor) -> Tensor:
    """Return the angles (B,) in radians of cosines (B,); the gradient is 0 at -1 and 1.

    Example:
        >>> import torch
        >>> [round(a, 3) for a in angle_of(torch.tensor([0.5, 0.0])).tolist()]
        [1.047, 1.571]
    """
    edge = 1 - torch.finfo(cosine.dtype).eps
    return torch.acos(cosine.clamp(-edge, edge))


def monotonic_cosine(angle: Tensor) -> Tensor:
    """Return (-1)^k * cos(angle) - 2 * k with k = floor(angle / pi), (B,) to (B,).

    The cosine up to pi, continued so that it never rises (SphereFace's psi).

    Example:
        >>> import math, torch
        >>> monotonic_cosine(torch.tensor([0.0, math.pi / 2, 2 * math.pi])).round().tolist()
        [1.0, -0.0, -3.0]
    """
    half_turns = torch.floor(angle.detach() / math.pi)
    return (1 - 2 * (half_turns % 2)) * torch.cos(angle) - 2 * half_turns

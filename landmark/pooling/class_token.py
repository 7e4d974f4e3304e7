"""A transformer's class token as the pooled vector, alone or beside the mean of its map."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from landmark.error import UserError
from landmark.pooling.gem import GeM


class _HasClassToken(Protocol):
    maps: Sequence[Tensor]
    class_token: Tensor | None


def _class_token(features: _HasClassToken) -> Tensor:
    if features.class_token is None:
        raise UserError("this backbone has no class token: choose another pooling, as pooling=gem")
    return features.class_token


class ClassToken(nn.Module):
    """The class token of a transformer: (B, C)."""

    takes = "features"

    def forward(self, features: _HasClassToken) -> Tensor:
        """(B, C), the token."""
        return _class_token(features)


class ClassTokenAndGeM(nn.Module):
    """Class token and generalised mean of the token map, concatenated: (B, C + C).

    Args:
        p: exponent of the generalised mean.
        learned: train the exponent with the network.
        eps: smallest activation.
    """

    takes = "features"

    def __init__(self, p: float = 3.0, learned: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        self.gem = GeM(p, learned, eps=eps)

    def forward(self, features: _HasClassToken) -> Tensor:
        """(B, 2 C), the token first."""
        return torch.cat([_class_token(features), self.gem(features.maps[-1])], dim=1)

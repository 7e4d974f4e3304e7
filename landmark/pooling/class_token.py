"""A transformer's class token as the pooled vector, alone or with the mean of its map."""

from collections.abc import Sequence
from typing import Protocol

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from landmark.error import UserError
from landmark.pooling.gem import GeM
from landmark.settings import checked


class _HasClassToken(Protocol):
    maps: Sequence[Tensor]
    class_token: Tensor | None


def _class_token(features: _HasClassToken) -> Tensor:
    if features.class_token is None:
        raise UserError(
            "this backbone has no class token. Choose another pooling, such as pooling=gem."
        )
    return features.class_token


class ClassToken(nn.Module):
    """The class token of a transformer, (B, C).

    Example:
        >>> from landmark.model import Features
        >>> token = torch.tensor([[1.0, 2.0]])
        >>> ClassToken()(Features(maps=[torch.ones(1, 2, 3, 3)], class_token=token)).tolist()
        [[1.0, 2.0]]
    """

    takes = "features"

    def forward(self, features: _HasClassToken) -> Tensor:
        """Return the token, (B, C)."""
        return _class_token(features)


class ClassTokenAndGeM(nn.Module):
    """Class token and generalised mean of the token map, concatenated: (B, C + C).

    Args:
        p: Exponent of the generalised mean.
        learned: Train the exponent with the network.
        eps: Smallest activation.

    Example:
        >>> from landmark.model import Features
        >>> token = torch.tensor([[1.0, 2.0]])
        >>> ClassTokenAndGeM()(Features([torch.ones(1, 2, 3, 3)], token)).tolist()
        [[1.0, 2.0, 1.0, 1.0]]
    """

    takes = "features"

    @checked
    def __init__(
        self, p: PositiveFloat = 3.0, learned: bool = False, eps: NonNegativeFloat = 1e-6
    ) -> None:
        super().__init__()
        self.gem = GeM(p, learned, eps=eps)

    def forward(self, features: _HasClassToken) -> Tensor:
        """Return (B, 2 C), the token first."""
        return torch.cat([_class_token(features), self.gem(features.maps[-1])], dim=1)

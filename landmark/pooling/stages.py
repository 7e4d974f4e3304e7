"""Generalised means of several stages, concatenated."""

from collections.abc import Sequence
from typing import Annotated, Protocol

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from landmark.pooling.gem import GeM
from landmark.settings import checked


class _HasMaps(Protocol):
    maps: Sequence[Tensor]


class Stages(nn.Module):
    """GeM of the maps of several stages, concatenated: maps (B, C_i, h_i, w_i) → (B, Σ C_i).

    The "G,G,G,G" pooling of the ensemble's FishNet.

    Args:
        stages: Stages of the backbone, counted from the first (0) or the last (-1).
        p: Exponent of the generalised mean.
        learned: Train one exponent for each stage.
        eps: Smallest activation.

    Example:
        >>> from landmark.model import Features
        >>> maps = [torch.full((1, 1, 4, 4), 2.0), torch.full((1, 2, 2, 2), 3.0)]
        >>> pooled = Stages(stages=[-2, -1])(Features(maps, None))
        >>> [round(value, 3) for value in pooled[0].tolist()]
        [2.0, 3.0, 3.0]
    """

    takes = "features"

    @checked
    def __init__(
        self,
        stages: Annotated[Sequence[int], Field(min_length=1)] = (-4, -3, -2, -1),
        p: PositiveFloat = 3.0,
        learned: bool = False,
        eps: NonNegativeFloat = 1e-6,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.poolings = nn.ModuleList(GeM(p, learned, eps=eps) for _ in self.stages)

    def forward(self, features: _HasMaps) -> Tensor:
        """Return (B, Σ C_i), in the order of the stages."""
        pooled = [pool(x) for pool, x in zip(self.poolings, features.maps, strict=True)]
        return torch.cat(pooled, dim=1)

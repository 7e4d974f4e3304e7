"""Generalised means of several stages side by side."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from landmark.pooling.gem import GeM


class _HasMaps(Protocol):
    maps: Sequence[Tensor]


class Stages(nn.Module):
    """GeM of each of several stages' maps, concatenated: maps (B, C_i, h_i, w_i) → (B, Σ C_i).

    The "G,G,G,G" pooling of the ensemble's FishNet.

    Args:
        stages: which stages of the backbone to take, counted from the first (0) or the last (-1).
        p: exponent of the generalised mean.
        learned: train one exponent a stage.
        eps: smallest activation.
    """

    takes = "features"

    def __init__(
        self,
        stages: Sequence[int] = (-4, -3, -2, -1),
        p: float = 3.0,
        learned: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.poolings = nn.ModuleList(GeM(p, learned, eps=eps) for _ in self.stages)

    def forward(self, features: _HasMaps) -> Tensor:
        """(B, Σ C_i), in the order of the stages."""
        pairs = zip(self.poolings, features.maps, strict=True)
        return torch.cat([pooling(x) for pooling, x in pairs], dim=1)

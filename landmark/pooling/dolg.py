"""DOLG: a global vector, and the part of local features that is orthogonal to it."""

from collections.abc import Sequence
from typing import Protocol

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.pooling.gem import GeM
from landmark.settings import checked


class _HasMaps(Protocol):
    maps: Sequence[Tensor]


def orthogonal_part(x: Tensor, direction: Tensor) -> Tensor:
    """Subtract from vectors (B, D) their projections onto `direction` (B, D).

    Example:
        >>> orthogonal_part(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]])).tolist()
        [[0.0, 4.0]]
    """
    along = (x * direction).sum(1, keepdim=True)
    return x - along * direction / direction.square().sum(1, keepdim=True).clamp(min=1e-12)


class DOLG(nn.Module):
    """Deep orthogonal fusion of local and global features, of the last two stages.

    Maps (B, C3, h3, w3) and (B, C4, h4, w4) → (B, output_dim), not of unit length. The global
    vector is the GeM of the last stage, projected to `dim`; local features come from the stage
    before it, weighted by attention. The result projects the global vector, joined with the mean
    over the map of the local features' parts that are orthogonal to it.

    Args:
        stages: The two stages of the backbone, counted from the first (0) or the last (-1).
        dim: Dimension of the global vector and of local features.
        branch_dim: Channels of each branch of the multi-atrous part.
        output_dim: Dimension of the result.
        multi_atrous: Compute local features by dilated convolutions of several rates. False leaves
            them out, as the authors' published configuration does.
        p: Initial exponent of the generalised mean, which is learned.
        eps: Smallest activation of the generalised mean.

    Raises:
        UserError: In the forward pass: the features are not those of two stages.

    Source:
        Yang et al.: DOLG: Single-Stage Image Retrieval with Deep Orthogonal Fusion of Local and
        Global Features. ICCV 2021, section 3. The 1×1 branch of the multi-atrous part is in the
        authors' code.

    Example:
        >>> from landmark.model import Features
        >>> maps = [torch.rand(2, 6, 8, 8), torch.rand(2, 12, 4, 4)]
        >>> DOLG(dim=6, branch_dim=4, output_dim=5)(Features(maps, None)).shape
        torch.Size([2, 5])
    """

    takes = "features"

    @checked
    def __init__(
        self,
        stages: tuple[int, int] = (-2, -1),
        dim: PositiveInt = 1024,
        branch_dim: PositiveInt = 512,
        output_dim: PositiveInt = 512,
        multi_atrous: bool = True,
        p: PositiveFloat = 3.0,
        eps: NonNegativeFloat = 1e-6,
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.gem = GeM(p, learned=True, eps=eps)
        self.global_linear = nn.LazyLinear(dim)
        self.aspp = _MultiAtrous(branch_dim, dim) if multi_atrous else nn.Identity()
        self.local_conv = nn.LazyConv2d(dim, kernel_size=1)
        self.local_norm = nn.BatchNorm2d(dim)
        self.attention_conv = nn.Conv2d(dim, 1, kernel_size=1)
        self.output_linear = nn.Linear(2 * dim, output_dim)

    def forward(self, features: _HasMaps) -> Tensor:
        """Return (B, output_dim)."""
        if len(features.maps) != 2:
            raise UserError(
                f"DOLG pools the maps of two stages, but the backbone returns "
                f"{len(features.maps)}. Pass model.stages=[-2,-1] or null."
            )
        before, last = features.maps
        vector = self.global_linear(self.gem(last))
        # The orthogonal part is linear: that of the mean is the mean of those of all places.
        local = orthogonal_part(self._local_mean(before), vector.float())
        joined = torch.cat([vector, local.to(vector.dtype)], dim=1)
        return self.output_linear(joined)

    def _local_mean(self, x: Tensor) -> Tensor:
        """Return the mean over the map of the weighted local features, (B, dim), float32."""
        y = self.local_norm(self.local_conv(self.aspp(x)))
        weights = functional.softplus(self.attention_conv(y.relu()).float())  # (B, 1, h, w)
        return (weights * functional.normalize(y.float(), dim=1)).mean((-2, -1))


class _MultiAtrous(nn.Module):
    """Dilated convolutions and the mean of a map, merged: (B, C, h, w) → (B, dim, h, w)."""

    def __init__(self, branch_dim: int, dim: int) -> None:
        super().__init__()
        self.pool = nn.LazyConv2d(branch_dim, kernel_size=1)
        self.point = nn.LazyConv2d(branch_dim, kernel_size=1)
        self.dilation6, self.dilation12, self.dilation18 = (
            nn.LazyConv2d(branch_dim, kernel_size=3, padding=rate, dilation=rate)
            for rate in (6, 12, 18)
        )
        self.merge = nn.Conv2d(5 * branch_dim, dim, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(x.mean((-2, -1), keepdim=True)).relu()
        branches = [self.point(x), self.dilation6(x), self.dilation12(x), self.dilation18(x)]
        return self.merge(torch.cat([pooled.expand_as(branches[0]), *branches], dim=1)).relu()

"""Regional maximum activations of convolutions."""

import torch
from torch import Tensor, nn

from landmark.error import UserError

MOST_ALONG_LONG_SIDE = 7


def _starts(length: int, window: int, count: int) -> list[int]:
    """First positions of `count` windows spread evenly over `length`."""
    if count == 1:
        return [0]
    return [step * (length - window) // (count - 1) for step in range(count)]


def region_grid(height: int, width: int, levels: int) -> list[tuple[int, list[int], list[int]]]:
    """Square regions of R-MAC, level by level.

    Along the long side the first level has as many regions as bring neighbours' overlap nearest to
    40 %; each level adds one region along both sides and shrinks them.

    Returns:
        One (side, tops, lefts) a level: regions of `side` × `side` start at each top and left.
    """
    short, long = min(height, width), max(height, width)

    def distance_from_overlap(count: int) -> int:
        # |1 - gap / (count - 1) / short - 0.4| in units of 1 / (300 short), so that ties are exact:
        # 300 is divisible by count - 1 = 1 … 6. The fewest regions win a tie.
        return abs(180 * short - 300 // (count - 1) * (long - short))

    extra = 0
    if long > short:
        extra = min(range(2, MOST_ALONG_LONG_SIDE + 1), key=distance_from_overlap) - 1
    extra_rows, extra_columns = (extra, 0) if height > width else (0, extra)
    grid = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side > 0:
            tops = _starts(height, side, level + extra_rows)
            lefts = _starts(width, side, level + extra_columns)
            grid.append((side, tops, lefts))
    return grid


class RMAC(nn.Module):
    """Sum of unit-length maxima over the whole map and a grid of regions: (B, C, h, w) → (B, C).

    Tolias, Sicre, Jégou: Particular object retrieval with integral max-pooling of CNN activations.
    ICLR 2016, section 3.2; with the whole map as one more region, as in the public code of
    Radenović et al. (cnnimageretrieval). Region starts are exact integers.

    Args:
        levels: scales of the region grid.
        eps: added to lengths before dividing.
    """

    def __init__(self, levels: int = 3, eps: float = 1e-6) -> None:
        super().__init__()
        if levels < 1:
            raise UserError(f"pooling.levels={levels}: R-MAC has at least one level")
        self.levels = levels
        self.eps = eps

    def _unit(self, x: Tensor) -> Tensor:
        return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C), not of unit length."""
        maxima = x.amax((-2, -1))
        regions = [maxima]
        for side, tops, lefts in region_grid(x.shape[-2], x.shape[-1], self.levels):
            for top in tops:
                rows = x[:, :, top : top + side].amax(2)  # (B, C, w)
                regions.extend(rows[:, :, left : left + side].amax(2) for left in lefts)
        stacked = torch.stack(regions, dim=-1).float()  # (B, C, regions)
        return self._unit(stacked).sum(-1).to(x.dtype)

"""Regional maximum activations of convolutions."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from landmark.settings import checked

MAX_ALONG_LONG_SIDE = 7


def _starts(length: int, window: int, count: int) -> list[int]:
    """Return the starts of `count` windows spread evenly over `length`."""
    if count == 1:
        return [0]
    return [step * (length - window) // (count - 1) for step in range(count)]


def region_grid(height: int, width: int, levels: int) -> list[tuple[int, list[int], list[int]]]:
    """Compute the square regions of R-MAC, level by level.

    The number of regions along the long side at the first level brings the overlap of neighbours
    nearest to 40 %; each further level adds one region along both sides and shrinks them.

    Returns:
        (side, tops, lefts) of each level: a region of `side` × `side` starts at each pair of them.

    Example:
        >>> region_grid(height=4, width=6, levels=2)
        [(4, [0], [0, 2]), (2, [0, 2], [0, 2, 4])]
    """
    short, long = min(height, width), max(height, width)

    def distance_from_overlap(count: int) -> int:
        # |1 - gap / (count - 1) / short - 0.4| in units of 1 / (300 short), so that ties are exact:
        # 300 is divisible by count - 1 = 1 … 6. The fewest regions win a tie.
        return abs(180 * short - 300 // (count - 1) * (long - short))

    extra = 0
    if long > short:
        extra = min(range(2, MAX_ALONG_LONG_SIDE + 1), key=distance_from_overlap) - 1
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
    """Sum of unit-length maxima over the map and a grid of regions: (B, C, h, w) → (B, C).

    Args:
        levels: Scales of the region grid.
        eps: Added to norms before dividing.

    Source:
        Tolias, Sicre, Jégou: Particular object retrieval with integral max-pooling of CNN
        activations. ICLR 2016, section 3.2; with the complete map as one more region, as in the
        public code of Radenović et al. (cnnimageretrieval). Region starts are exact integers.

    Example:
        >>> x = torch.tensor([3.0, 4.0])[None, :, None, None].expand(1, 2, 2, 2)
        >>> [round(value, 3) for value in RMAC(levels=1)(x)[0].tolist()]  # the map and one region
        [1.2, 1.6]
    """

    @checked
    def __init__(
        self, levels: Annotated[int, Field(gt=0, le=16)] = 3, eps: NonNegativeFloat = 1e-6
    ) -> None:
        super().__init__()
        self.levels = levels
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C), not of unit length."""
        maxima = x.amax((-2, -1))
        regions = [maxima]
        for side, tops, lefts in region_grid(x.shape[-2], x.shape[-1], self.levels):
            for top in tops:
                rows = x[:, :, top : top + side].amax(2)  # (B, C, w)
                regions.extend(rows[:, :, left : left + side].amax(2) for left in lefts)
        stacked = torch.stack(regions, dim=-1).float()  # (B, C, regions)
        unit = stacked / (torch.linalg.vector_norm(stacked, dim=1, keepdim=True) + self.eps)
        return unit.sum(-1).to(x.dtype)

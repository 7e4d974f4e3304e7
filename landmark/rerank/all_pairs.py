"""Nearest and farthest of every photo, from the cosines of all pairs, each computed once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from landmark.rerank.best import Best, Triplets

if TYPE_CHECKING:
    from torch import Tensor

_PHOTOS_AT_ONCE = 4096


def nearest_and_lowest(sets: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of every photo among all, and its lowest cosine with any.

    The cosines are computed block by block, on a GPU where there is one; a block serves its rows
    and its columns, so this costs half of an exact search, and the lowest cosines nothing more.

    Args:
        sets: Descriptors, each (N_i, D), N in all; may be memory-mapped. None is copied.
        k: Neighbours of a photo, itself among them, at most N.

    Returns:
        Photos (N, k) int32, counted through the sets, each photo itself first, the others by
        falling cosine, of equal ones the lower; and the lowest cosines (N,) float32.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    total = sum(map(len, sets))
    best = Best(total, k, above=-np.inf)
    lowest = np.full(total, np.inf, np.float32)
    blocks = _blocks(sets)

    def descriptors(block: tuple[int, int, slice]) -> "Tensor":
        _, which, part = block
        return torch.from_numpy(np.array(sets[which][part], np.float32)).to(device)

    for i, row_block in enumerate(blocks):
        left = descriptors(row_block)
        for j, column_block in enumerate(blocks[i:], start=i):
            right = left if i == j else descriptors(column_block)
            cosines = left @ right.T
            sides = [_Side(row_block[0], column_block[0], 0)]
            if i != j:
                sides.append(_Side(column_block[0], row_block[0], 1))
            for side in sides:
                found = cosines.amin(1 - side.axis).cpu().numpy()
                part = slice(side.first, side.first + len(found))
                lowest[part] = np.minimum(lowest[part], found)
            if i == j:
                cosines.fill_diagonal_(torch.inf)  # the photo itself comes first
            for side in sides:
                best.add(_candidates(best, cosines, side))
                best.settle()
    return best.result()[0], lowest


def _blocks(sets: Sequence[np.ndarray]) -> list[tuple[int, int, slice]]:
    """Parts of the sets: number of the first photo, the set, and where it lies there."""
    blocks, shift = [], 0
    for which, photos in enumerate(sets):
        for first in range(0, len(photos), _PHOTOS_AT_ONCE):
            end = min(first + _PHOTOS_AT_ONCE, len(photos))
            blocks.append((shift + first, which, slice(first, end)))
        shift += len(photos)
    return blocks


class _Side(NamedTuple):
    """Whose neighbours a block is searched for: its rows' (axis 0) or its columns'.

    Attributes:
        first: Number of the first photo that asks.
        other: Number of the first photo that may be its neighbour.
        axis: Along which the photos that ask lie.
    """

    first: int
    other: int
    axis: int


def _candidates(best: Best, cosines: "Tensor", side: _Side) -> Triplets:
    """Pairs of a block that may be among the best of the photos that ask."""
    import torch

    asking, others = cosines.shape[side.axis], cosines.shape[1 - side.axis]
    least = torch.from_numpy(best.lowest(slice(side.first, side.first + asking)))
    good = cosines > least.to(cosines.device).unsqueeze(1 - side.axis)
    wanted = min(best.k, others)
    if _count(good) > 2 * wanted * asking:  # only the best of this block, with what ties
        top = cosines.topk(wanted, dim=1 - side.axis).values.amin(1 - side.axis, keepdim=True)
        good &= cosines >= top
    places = _places(good)
    pairs = divmod(places, cosines.shape[1])
    values = cosines.ravel()[torch.from_numpy(places).to(cosines.device)].cpu().numpy()
    return Triplets(pairs[side.axis] + side.first, pairs[1 - side.axis] + side.other, values)


def _count(good: "Tensor") -> int:
    """How many are true; numpy is quicker than torch at this on the processor."""
    return int(good.sum() if good.is_cuda else np.count_nonzero(good.numpy()))


def _places(good: "Tensor") -> np.ndarray:
    """Where they are true in the flattened block, ascending."""
    import torch

    return (
        torch.nonzero(good.ravel())[:, 0].cpu().numpy()
        if good.is_cuda
        else np.flatnonzero(good.numpy())
    )

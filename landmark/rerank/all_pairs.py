"""Nearest and farthest of every photo, from the cosines of all pairs, each computed once."""

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.processes import is_alone, shard
from landmark.rerank.ranking import Best, Triplets
from landmark.search.blocks import Vectors
from landmark.search.index import local_torch_device
from landmark.search.sharded import gather_stacked

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_ROWS = 4096
_MERGED_RESULTS = 2**22


def nearest_and_lowest(
    photos: Vectors, k: int, device: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of every photo among all, and its lowest cosine with any.

    The cosines are computed tile by tile; a tile serves its rows and its columns, so this costs
    half of an exact search, and the lowest cosines nothing more. Under a launcher each rank
    computes a share of the tiles.

    Args:
        photos: Descriptors, (N, D); may be memory-mapped or stacked. They are not copied.
        k: Neighbours of a photo, itself among them, at most N.
        device: Where to compute (see `landmark.device`).

    Returns:
        Photos (N, k) int32, each photo itself first, the others by descending cosine, ties by row;
        and the lowest cosines (N,) float32.

    Example:
        >>> photos = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
        >>> nearest, lowest = nearest_and_lowest(photos, k=2, device="cpu")
        >>> nearest.tolist(), lowest.round(1).astype(str).tolist()
        ([[0, 1], [1, 2], [2, 1]], ['0.0', '0.6', '0.0'])
    """
    best = Best(len(photos), k, above=-np.inf)
    lowest = np.full(len(photos), np.inf, np.float32)
    for rows, columns, cosines in _tiles(photos, device):
        sides = [_Side(rows, columns.start, 0), _Side(columns, rows.start, 1)]
        if rows == columns:
            sides.pop()
        for side in sides:
            least = cosines.amin(1 - side.axis).cpu().numpy()
            lowest[side.photos] = np.minimum(lowest[side.photos], least)
        if rows == columns:
            cosines.fill_diagonal_(float("inf"))  # the photo itself comes first
        for side in sides:
            best.add(_candidates(best, cosines, side))
            best.settle()
    return _merged(*best.result(), lowest)


def _tiles(photos: Vectors, device: str) -> Iterator[tuple[slice, slice, "Tensor"]]:
    """This rank's tiles, each once with its cosines (B, C): rows, columns from the rows' on."""
    import torch

    torch_device = local_torch_device(device)

    def upload(block: slice) -> "Tensor":
        return torch.tensor(np.asarray(photos[block], np.float32), device=torch_device)

    tiles = list(combinations_with_replacement(row_blocks(len(photos), _BLOCK_ROWS), 2))
    uploaded, left = None, torch.empty(0)
    for rows, columns in tiles[shard(len(tiles))]:
        if rows != uploaded:
            uploaded, left = rows, upload(rows)
        right = left if rows == columns else upload(columns)
        yield rows, columns, left @ right.T


def _merged(
    rows: np.ndarray, scores: np.ndarray, lowest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest (N, k) and lowest cosines (N,) by the tiles of all ranks."""
    if is_alone():
        return rows, lowest
    for part in row_blocks(len(rows), _MERGED_RESULTS // rows.shape[1]):
        lowest[part] = gather_stacked(lowest[part]).min(axis=0)
        near, cosines = (
            np.concatenate(list(gather_stacked(values[part])), axis=1) for values in (rows, scores)
        )
        order = np.lexsort((near, -cosines), axis=1)[:, : rows.shape[1]]
        rows[part] = np.take_along_axis(near, order, axis=1)
    return rows, lowest


class _Side(NamedTuple):
    """Whose neighbours a tile is searched for: its rows' (axis 0) or its columns'.

    Attributes:
        photos: The photos whose neighbours these are.
        first_other: Number of the first photo that may be a neighbour.
        axis: Axis of the photos whose neighbours these are.
    """

    photos: slice
    first_other: int
    axis: int


def _candidates(best: Best, cosines: "Tensor", side: _Side) -> Triplets:
    """Pairs of a tile that may be among the best."""
    import torch

    photos, others = cosines.shape[side.axis], cosines.shape[1 - side.axis]
    least = torch.from_numpy(best.lowest(side.photos))
    good = cosines > least.to(cosines.device).unsqueeze(1 - side.axis)
    wanted = min(best.k, others)
    if _count(good) > 2 * wanted * photos:  # only the best of this tile, with what ties
        top = cosines.topk(wanted, dim=1 - side.axis).values.amin(1 - side.axis, keepdim=True)
        good &= cosines >= top
    places = _places(good)
    pairs = divmod(places, cosines.shape[1])
    values = cosines.ravel()[torch.from_numpy(places).to(cosines.device)].cpu().numpy()
    return Triplets(
        pairs[side.axis] + side.photos.start, pairs[1 - side.axis] + side.first_other, values
    )


def _count(good: "Tensor") -> int:
    """How many are true; numpy is faster than torch at this on the CPU."""
    return int(np.count_nonzero(good.numpy()) if good.device.type == "cpu" else good.sum())


def _places(good: "Tensor") -> np.ndarray:
    """Where they are true in the flattened tile, ascending."""
    import torch

    if good.device.type == "cpu":
        return np.flatnonzero(good.numpy())
    return torch.nonzero(good.ravel())[:, 0].cpu().numpy()

"""Nearest neighbours and lowest cosine of every photo; each pair's cosine is computed once."""

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
    photos: Vectors, k: int, device: str = "auto", twins: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest neighbours of every photo, and its lowest cosine with any photo.

    The cosines are computed tile by tile. Each tile is used for both its rows and its columns,
    which halves the cost of an exact search. Under a launcher each rank computes a shard of the
    tiles.

    Args:
        photos: Descriptors, (N, D); may be memory-mapped or stacked. They are not copied.
        k: Neighbours per photo, including the photo itself; at most N.
        device: Device to compute on (see `landmark.device`).
        twins: (N,) another copy of each photo, which is not its neighbour; -1 for none. Defaults to
            none.

    Returns:
        Neighbours (N, k) int32, each photo itself first, then by descending cosine, ties by row;
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
        if twins is not None:
            _separate(cosines, twins, rows, columns)
        if rows == columns:
            cosines.fill_diagonal_(float("inf"))  # the photo itself comes first
        for side in sides:
            best.add(_candidates(best, cosines, side))
            best.settle()
    return _merged(*best.result(), lowest)


def _separate(cosines: "Tensor", twins: np.ndarray, rows: slice, columns: slice) -> None:
    """Set the cosines of a tile to -inf between copies of a photo."""
    twin = twins[rows]
    row = np.flatnonzero((twin >= columns.start) & (twin < columns.stop))
    cosines[row, twin[row] - columns.start] = -float("inf")


def _tiles(photos: Vectors, device: str) -> Iterator[tuple[slice, slice, "Tensor"]]:
    """Yield this rank's tiles of the upper triangle: rows, columns, cosines (B, C)."""
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
    """Merge neighbours (N, k) and lowest cosines (N,) of all ranks."""
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
    """One use of a tile: neighbours of its row photos (axis 0) or of its column photos (axis 1).

    Attributes:
        photos: Photos that get neighbours.
        first_neighbour: Number of the first candidate neighbour.
        axis: Axis of `photos` in the tile.
    """

    photos: slice
    first_neighbour: int
    axis: int


def _candidates(best: Best, cosines: "Tensor", side: _Side) -> Triplets:
    """Return the pairs of a tile that may be among the k best."""
    import torch

    photos, others = cosines.shape[side.axis], cosines.shape[1 - side.axis]
    least = torch.from_numpy(best.lowest(side.photos))
    good = cosines > least.to(cosines.device).unsqueeze(1 - side.axis)
    k = min(best.k, others)
    if _count(good) > 2 * k * photos:  # keep only the k best of this tile and their ties
        top = cosines.topk(k, dim=1 - side.axis).values.amin(1 - side.axis, keepdim=True)
        good &= cosines >= top
    positions = _positions(good)
    pairs = divmod(positions, cosines.shape[1])
    values = cosines.ravel()[torch.from_numpy(positions).to(cosines.device)].cpu().numpy()
    return Triplets(
        pairs[side.axis] + side.photos.start, pairs[1 - side.axis] + side.first_neighbour, values
    )


def _count(good: "Tensor") -> int:
    """Count the true entries; on the CPU numpy is faster than torch."""
    return int(np.count_nonzero(good.numpy()) if good.device.type == "cpu" else good.sum())


def _positions(good: "Tensor") -> np.ndarray:
    """Return the flat positions of the true entries, ascending."""
    import torch

    if good.device.type == "cpu":
        return np.flatnonzero(good.numpy())
    return torch.nonzero(good.ravel())[:, 0].cpu().numpy()

"""Mark the results within a distance of the query, for place recognition."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landmark.metric.relevance import BLOCK_SIZE, first_places, query_blocks

_MOST_CELLS = 1 << 20  # along an axis: keys of two axes fit 64 bits
_MARGIN = 1.001  # rounding never puts points within the radius two cells apart


def hits_by_position(
    rows: NDArray[np.integer], query: ArrayLike, gallery: ArrayLike, radius: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Mark the results that are at most `radius` from the query.

    Args:
        rows: Gallery rows, best first, (Q, K); -1 pads.
        query: Positions of the queries, (Q, 2), such as UTM coordinates in metres.
        gallery: Positions of the gallery images, (N, 2).
        radius: Largest distance of a positive, in the unit of the positions.

    Returns:
        hits (Q, K), a repeated row being a hit only at its first position, and the number of
        gallery images within the radius of each query (Q,).

    Example:
        >>> rows = np.array([[1, 0, 1, -1]])
        >>> hits, relevant = hits_by_position(rows, [[0, 0]], [[3, 5], [3, 4], [0, 0]], radius=5)
        >>> hits.tolist(), relevant.tolist()
        ([[True, False, False, False]], [2])
    """
    rows = np.asarray(rows)
    query, gallery = (np.asarray(xy, np.float64).reshape(-1, 2) for xy in (query, gallery))
    hits = np.zeros(rows.shape, bool)
    for block in query_blocks(rows) if len(gallery) else ():
        ranked = rows[block]
        near = is_within(gallery[ranked], query[block, None], radius)
        hits[block] = near & (ranked >= 0)
    return first_places(rows, hits), count_within(query, gallery, radius)


def is_within(
    one: NDArray[np.float64], other: NDArray[np.float64], radius: float
) -> NDArray[np.bool_]:
    """Whether positions (…, 2) are at most `radius` apart.

    Example:
        >>> is_within(np.array([3.0, 4.0]), np.zeros((2, 2)), radius=5).tolist()
        [True, True]
    """
    offset = one - other
    return offset[..., 0] ** 2 + offset[..., 1] ** 2 <= radius * radius


def count_within(
    query: NDArray[np.float64],
    gallery: NDArray[np.float64],
    radius: float,
    block_size: int = BLOCK_SIZE,
) -> NDArray[np.int64]:
    """Count the gallery positions at most `radius` from each query.

    The gallery is sorted into square cells of about the radius; a query is compared with the photos
    of the nine cells around it.

    Args:
        query: (Q, 2).
        gallery: (N, 2).
        radius: Largest distance, above 0.
        block_size: Pairs compared per block; at least the photos of three cells.

    Example:
        >>> count_within(np.zeros((1, 2)), np.array([[0.0, 5.0], [3.0, 4.1]]), radius=5).tolist()
        [1]
    """
    counts = np.zeros(len(query), np.int64)
    if not len(gallery) or not len(query):
        return counts
    origin = gallery.min(axis=0)
    extent = gallery.max(axis=0) - origin
    side = max(radius * _MARGIN, extent.max() / _MOST_CELLS)
    last = np.floor(extent / side)
    columns = int(last[1]) + 7  # with empty cells around the gallery's
    keys = _cells(gallery, origin, side, last) @ np.array([columns, 1])
    order = np.argsort(keys, kind="stable")
    keys, positions = keys[order], gallery[order]
    cells = _cells(query, origin, side, last)
    # The three cells of a column of cells are neighbours in the order: three ranges a query.
    first = (cells[:, :1] + np.array([-1, 0, 1])) * columns + cells[:, 1:] - 1
    starts = np.searchsorted(keys, first.ravel(), side="left")
    sizes = np.searchsorted(keys, first.ravel() + 2, side="right") - starts
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(sizes):
        done = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + block_size, side="right")))
        part = slice(begin, end)
        ranges = np.repeat(np.arange(begin, end), sizes[part])
        place = np.arange(done, ends[end - 1]) - (ends - sizes)[ranges] + starts[ranges]
        near = is_within(positions[place], query[ranges // 3], radius)
        counts += np.bincount(ranges[near] // 3, minlength=len(query))
        begin = end
    return counts


def _cells(
    positions: NDArray[np.float64],
    origin: NDArray[np.float64],
    side: float,
    last: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the cell of each position (M, 2), from 3 for the gallery's first."""
    cells = np.floor((positions - origin) / side)
    return (np.clip(cells, -2, last + 2) + 3).astype(np.int64)

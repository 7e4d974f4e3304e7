"""Nearest neighbours of every photo, and of gallery photos on demand."""

from collections.abc import Iterator, Sequence

import numpy as np

from landmark.artifact.stacked import StackedVectors
from landmark.artifact.vectors import row_blocks
from landmark.disk.temporary import temporary_array
from landmark.processes import gather_objects
from landmark.search.blocks import Vectors
from landmark.search.index import Index
from landmark.search.top_k import best_in_order

_BLOCK_ROWS = 65536
_BLOCK_RESULTS = 2**23
_BLOCK_VALUES = 2**22  # of the descriptors of pairs: 16 MB


def all_neighbours(
    indexes: Sequence[Index], k: int, scored: int | None = None, twins: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest neighbours of every photo among all photos of several indexes.

    Photos are numbered consecutively across the indexes.

    Args:
        indexes: Indexes of (N_i, D), N photos in total.
        k: Neighbours per photo, including the photo itself; at most N.
        scored: Number of neighbours to return cosines for. Defaults to k.
        twins: (N,) another copy of each photo, which is not its neighbour; -1 for none. Defaults to
            none.

    Returns:
        Neighbours (N, k) int32, each photo itself first, then by descending cosine, -1 pads; and
        cosines (N, scored) float32, -inf at the pads.

    Example:
        >>> from landmark.search import Flat
        >>> photos = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
        >>> all_neighbours([Flat().build(photos[:1]), Flat().build(photos[1:])], k=2)[0].tolist()
        [[0, 1], [1, 2], [2, 1]]
    """
    photos = StackedVectors([index.gallery for index in indexes])
    firsts = np.cumsum([0, *(len(index.gallery) for index in indexes)]).tolist()
    rows = temporary_array((len(photos), k), np.int32)
    scores = temporary_array((len(photos), k if scored is None else min(scored, k)), np.float32)
    for block in _blocks(len(photos), k):
        rankings = []
        for index, first in zip(indexes, firsts, strict=False):
            twin = None if twins is None else _within(twins[block] - first, len(index.gallery))
            hits, cosines = index.search_others(photos[block], min(k, len(index.gallery)), twin)
            rankings.append((np.where(hits < 0, -1, hits + first), cosines))
        best, best_cosines = best_in_order(rankings, k)
        own_first(best, best_cosines, np.arange(block.start, block.stop))
        rows[block], scores[block] = best, best_cosines[:, : scores.shape[1]]
    return rows, scores


def lowest_cosines(index: Index) -> np.ndarray:
    """Return the lowest cosine of every photo of an index with any of its photos, (N,) float32.

    It is the highest one with the negated photo, so one search for a single neighbour returns it.

    Example:
        >>> from landmark.search import Flat
        >>> photos = np.array([[1, 0], [0, 1], [-0.8, 0.6]], np.float32)
        >>> lowest_cosines(Flat().build(photos)).round(1)
        array([-0.8,  0. , -0.8], dtype=float32)
    """
    lowest = np.empty(len(index.gallery), np.float32)
    for block in _blocks(len(lowest), 1):
        lowest[block] = 0 - index.search(-index.gallery[block], 1)[1][:, 0]  # no -0
    return lowest


def twins_of(own_rows: np.ndarray | None, photos: int) -> np.ndarray | None:
    """Number queries, then gallery photos, and return the number of each photo's other copy.

    Args:
        own_rows: (Q,) gallery row of each query's own photo, -1 for none. None means that no query
            is in the gallery.
        photos: Q + N.

    Returns:
        (Q + N,), -1 for none; None if there are no copies.

    Example:
        >>> twins_of(np.array([-1, 0]), photos=4).tolist()
        [-1, 2, 1, -1]
    """
    if own_rows is None or (own_rows < 0).all():
        return None
    twins = np.full(photos, -1)
    query = np.flatnonzero(own_rows >= 0)
    twins[query] = len(own_rows) + own_rows[query]
    twins[twins[query]] = query
    return twins


def _within(rows: np.ndarray, count: int) -> np.ndarray:
    return np.where((rows >= 0) & (rows < count), rows, -1)


def _blocks(photos: int, k: int) -> Iterator[slice]:
    """Yield blocks of photos to search together for k neighbours each."""
    return row_blocks(photos, min(_BLOCK_ROWS, _BLOCK_RESULTS // k))


def pair_cosines(descriptors: Vectors, photos: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosines of P pairs of photos, (P,) float32.

    Args:
        descriptors: (N, D) float32.
        photos: First photo of each pair, (P,).
        others: Second photo of each pair, (P,).

    Example:
        >>> descriptors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
        >>> pair_cosines(descriptors, np.array([0, 1]), np.array([2, 2])).round(1)
        array([0.6, 0.8], dtype=float32)
    """
    cosines = np.empty(len(photos), np.float32)
    for part in row_blocks(len(photos), _BLOCK_VALUES // descriptors.shape[1]):
        left, right = descriptors[photos[part]], descriptors[others[part]]
        cosines[part] = np.einsum("pd,pd->p", left, right)
    return cosines


def own_first(rows: np.ndarray, scores: np.ndarray, own: np.ndarray) -> None:
    """Put each photo at the head of its own neighbours, in place.

    Duplicates of a photo have the same cosine, so a search may return them before the photo itself,
    or without it.

    Args:
        rows: Neighbours of each photo, (B, k).
        scores: Cosines of the neighbours, (B, k), descending.
        own: The photos, (B,).

    Example:
        >>> rows, scores = np.array([[4, 3]]), np.array([[0.9, 0.8]])
        >>> own_first(rows, scores, np.array([3]))
        >>> rows.tolist()
        [[3, 4]]
    """
    misplaced = np.flatnonzero(rows[:, 0] != own)
    if not len(misplaced):
        return
    lists, own = rows[misplaced], own[misplaced, None]
    absent = ~(lists == own).any(axis=1)
    lists[absent, -1] = own[absent, 0]
    order = np.argsort(lists != own, axis=1, kind="stable")
    rows[misplaced] = np.take_along_axis(lists, order, 1)
    cosines = np.take_along_axis(scores[misplaced], order, 1)
    cosines[absent, 0] = 1
    scores[misplaced] = cosines


class GalleryNeighbours:
    """Lazy cache of the k nearest neighbours of gallery photos.

    Under a launcher every look-up is collective: all ranks search for the photos that any rank
    needs, so a sharded index can be used. A rank may look up any number of times and must then call
    `finish`, which takes part in the look-ups of the other ranks until all have finished.

    Args:
        index: Index of the gallery (N, D).
        k: Neighbours per photo, including the photo itself; at most N.
        expected: Upper bound on the photos that all ranks together will look up. If it covers the
            gallery, all photos are searched in advance, which is faster than on demand.

    Example:
        >>> from landmark.search import Flat
        >>> index = Flat().build(np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32))
        >>> neighbours = GalleryNeighbours(index, k=2, expected=1)
        >>> neighbours.of(np.array([2]))[0].tolist()
        [[2, 1]]
    """

    def __init__(self, index: Index, k: int, expected: int) -> None:
        self._index, self._k = index, k
        photos = len(index.gallery)
        self._place = np.full(photos, -1, np.int32)  # photo → row of the cache
        self._count = 0
        self._rows = temporary_array((min(expected, photos), k), np.int32)
        self._scores = temporary_array((min(expected, photos), k), np.float32)
        if expected >= photos:
            self._search(np.arange(photos))

    def of(self, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbours (B, k) int32, -1 pads, and cosines (B, k) of photos (B,)."""
        if self._count < len(self._place):
            self._look_up(np.unique(photos), is_last=False)
        places = self._place[photos]
        return self._rows[places], self._scores[places]

    def finish(self) -> None:
        """Take part in the look-ups of the other ranks until all have finished."""
        while self._count < len(self._place):
            if self._look_up(np.arange(0), is_last=True):
                return

    def _look_up(self, photos: np.ndarray, is_last: bool) -> bool:
        """Search for the photos that the ranks need; return whether all ranks have finished."""
        missing = photos[self._place[photos] < 0]
        of_ranks = gather_objects((missing, is_last))
        self._search(np.unique(np.concatenate([photos for photos, _ in of_ranks])))
        return all(is_last for _, is_last in of_ranks)

    def _search(self, photos: np.ndarray) -> None:
        for block in _blocks(len(photos), self._k):
            part = photos[block]
            cached = slice(self._count, self._count + len(part))
            hits = self._index.search(self._index.gallery[part], self._k)
            self._rows[cached], self._scores[cached] = hits
            self._place[part] = np.arange(cached.start, cached.stop)
            self._count = cached.stop

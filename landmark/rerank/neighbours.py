"""Nearest neighbours of every photo, and of gallery photos on demand."""

from collections.abc import Iterator, Sequence

import numpy as np

from landmark.disk.temporary import temporary_array
from landmark.rerank.retrieval import Retrieval, Search

_PHOTOS_AT_ONCE = 65536
_RESULTS_AT_ONCE = 2**23
_VALUES_AT_ONCE = 2**22  # of the descriptors of pairs: 16 MB


def all_neighbours(
    sets: Sequence[np.ndarray], search: Search, k: int, scored: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of every photo among all photos of some sets, counted through the sets.

    Args:
        sets: Descriptors, each (N_i, D), N in all; may be memory-mapped. None is copied.
        search: search(query, gallery, k) gives rows and scores.
        k: Neighbours of a photo, itself among them, at most N.
        scored: Those whose cosines are kept; none: all.

    Returns:
        Photos (N, k) int32, each photo itself first, the others by falling cosine, -1 where the
        search found no more; and the cosines (N, scored) float32, -inf there.
    """
    total, scored = sum(map(len, sets)), k if scored is None else min(scored, k)
    rows, scores = (
        temporary_array((total, k), np.int32),
        temporary_array((total, scored), np.float32),
    )
    for first, photos in _blocks(sets, k):
        block = slice(first, first + len(photos))
        near, cosines, shift = [], [], 0
        for among in sets:
            found, found_scores = search(photos, among, min(k, len(among)))
            near.append(np.where(found < 0, -1, found + shift))
            cosines.append(found_scores)
            shift += len(among)
        all_cosines = np.concatenate(cosines, axis=1)
        order = np.argsort(-all_cosines, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(np.concatenate(near, axis=1), order, 1)
        found_cosines = np.take_along_axis(all_cosines, order, 1)
        own_first(found, found_cosines, np.arange(first, first + len(photos)))
        rows[block], scores[block] = found, found_cosines[:, :scored]
    return rows, scores


def pair_cosines(sets: Sequence[np.ndarray], photos: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosines of pairs of photos, (P,) float32.

    Args:
        sets: Descriptors, each (N_i, D), N in all; may be memory-mapped.
        photos: The one of each pair, (P,), counted through the sets.
        others: The other, (P,).
    """
    cosines = np.empty(len(photos), np.float32)
    at_once = max(1, _VALUES_AT_ONCE // max(1, sets[0].shape[1]))
    for first in range(0, len(photos), at_once):
        part = slice(first, first + at_once)
        left, right = (_descriptors(sets, some[part]) for some in (photos, others))
        cosines[part] = np.einsum("pd,pd->p", left, right)
    return cosines


def _descriptors(sets: Sequence[np.ndarray], photos: np.ndarray) -> np.ndarray:
    """Descriptors (P, D) float32 of photos (P,), counted through the sets."""
    taken = np.empty((len(photos), sets[0].shape[1]), np.float32)
    shift = 0
    for among in sets:
        here = np.flatnonzero((photos >= shift) & (photos < shift + len(among)))
        if len(here):
            taken[here] = among[photos[here] - shift]
        shift += len(among)
    return taken


def _blocks(sets: Sequence[np.ndarray], k: int) -> Iterator[tuple[int, np.ndarray]]:
    """Parts of the sets one after another: number of the first photo, descriptors."""
    at_once = max(1, min(_PHOTOS_AT_ONCE, _RESULTS_AT_ONCE // k))
    shift = 0
    for among in sets:
        for first in range(0, len(among), at_once):
            yield shift + first, among[first : first + at_once]
        shift += len(among)


def own_first(rows: np.ndarray, scores: np.ndarray, own: np.ndarray) -> None:
    """Put each photo at the head of its own neighbours, in place.

    Copies of one photo are equally near, and a search may list another copy first, or so many that
    the photo itself is not among them.

    Args:
        rows: Neighbours of each photo, (B, k).
        scores: Their cosines, (B, k), falling.
        own: The photos, (B,).
    """
    misplaced = np.flatnonzero(rows[:, 0] != own)
    if not len(misplaced):
        return
    found, own = rows[misplaced], own[misplaced, None]
    absent = ~(found == own).any(axis=1)
    found[absent, -1] = own[absent, 0]
    order = np.argsort(found != own, axis=1, kind="stable")
    rows[misplaced] = np.take_along_axis(found, order, 1)
    cosines = np.take_along_axis(scores[misplaced], order, 1)
    cosines[absent, 0] = 1
    scores[misplaced] = cosines


class GalleryNeighbours:
    """The k nearest gallery photos of gallery photos, looked up when first asked for.

    Args:
        retrieval: Gallery (N, D) and how to search.
        k: Neighbours of a photo, at most N, the photo itself among them.
        expected: Photos that will be asked for at most; where that is all of the gallery, all are
            looked up at once, which is quicker than bit by bit.
    """

    def __init__(self, retrieval: Retrieval, k: int, expected: int) -> None:
        self._gallery, self._search = retrieval.gallery, retrieval.search
        self._k = k
        photos = len(self._gallery)
        self._place = np.full(photos, -1, np.int32)  # of a photo among those looked up
        self._known = 0
        self._rows = temporary_array((min(expected, photos), k), np.int32)
        self._scores = temporary_array((min(expected, photos), k), np.float32)
        if expected >= photos:
            self._look_up(np.arange(photos))

    def of(self, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours (B, k) int32, -1 where there are no more, and cosines (B, k) of photos."""
        if self._known < len(self._place):
            wanted = np.unique(photos)
            self._look_up(wanted[self._place[wanted] < 0])
        places = self._place[photos]
        return self._rows[places], self._scores[places]

    def _look_up(self, photos: np.ndarray) -> None:
        at_once = max(1, min(_PHOTOS_AT_ONCE, _RESULTS_AT_ONCE // self._k))
        for first in range(0, len(photos), at_once):
            part = photos[first : first + at_once]
            block = slice(self._known, self._known + len(part))
            self._rows[block], self._scores[block] = self._search(
                self._gallery[part], self._gallery, self._k
            )
            self._place[part] = np.arange(block.start, block.stop)
            self._known = block.stop

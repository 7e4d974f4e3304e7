"""Pairs of photos to verify: nearest neighbours with the same landmark, and a few with another."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.vectors import row_blocks
from landmark.disk.temporary import temporary_array
from landmark.search.index import Index

_BLOCK_ROWS = 16384
_BLOCK_RESULTS = 2**22
_BLOCK_PAIRS = 2**22


class Candidates(NamedTuple):
    """The pairs to verify, and how far the nearest neighbours agree with each photo's landmark.

    Attributes:
        pairs: (P, 2) int32 rows of the photos, the lower row first; distinct and ascending.
        agreement: (N,) float32 share of the nearest neighbours with the photo's own landmark; NaN
            for a photo without a landmark, or the only one of its landmark.
        rivals: (N,) int32 number of the other landmark that most of the nearest neighbours have, -1
            if they have none, or where the agreement is NaN.
        rival_shares: (N,) float32 share of the nearest neighbours with that landmark.
    """

    pairs: NDArray[np.int32]
    agreement: NDArray[np.float32]
    rivals: NDArray[np.int32]
    rival_shares: NDArray[np.float32]


def find_candidates(
    index: Index,
    labels: NDArray[np.int32],
    k: int = 1000,
    candidates: int = 100,
    others: int = 5,
    neighbours: int = 10,
) -> Candidates:
    """Search all photos for each other, in blocks, and choose the pairs to verify.

    Under a launcher the search is collective and every rank gets all pairs.

    Args:
        index: Index of the photos (N, D).
        labels: (N,) number of each photo's landmark, -1 if unknown.
        k: Neighbours of each photo that are looked at, itself left out.
        candidates: Nearest photos of its own landmark, among the k, that each photo is paired with.
        others: Nearest photos of other landmarks, among the k, that it is paired with.
        neighbours: Nearest neighbours that may agree: at most as many as there are other photos of
            the landmark.

    Example:
        >>> from landmark.search import Flat
        >>> photos = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)
        >>> labels = np.array([0, 0, 1], np.int32)
        >>> found = find_candidates(Flat().build(photos), labels, k=2, others=0)
        >>> found.pairs.tolist(), found.agreement.tolist(), found.rivals.tolist()
        ([[0, 1]], [1.0, 0.0, nan], [-1, 1, -1])
    """
    photos = len(labels)
    k = min(k, photos - 1)
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    mates = np.where(labels >= 0, sizes[labels] - 1, 0)
    limit = int(np.minimum(mates, candidates).sum()) + photos * others
    keys = temporary_array((limit,), np.int64)
    agreement = np.full(photos, np.nan, np.float32)
    rivals, shares = np.full(photos, -1, np.int32), np.zeros(photos, np.float32)
    count = 0
    for block in row_blocks(photos if k else 0, min(_BLOCK_ROWS, _BLOCK_RESULTS // (k + 1))):
        own = np.arange(block.start, block.stop)
        rows, _ = index.search_others(index.gallery[block], k, own)
        is_known = (rows >= 0) & (labels[rows] >= 0) & (labels[own, None] >= 0)
        is_same = is_known & (labels[rows] == labels[own, None])
        is_other = is_known & ~is_same
        depths = np.minimum(np.minimum(mates[block], neighbours), k)
        agreement[block] = _agreement(is_same, depths)
        near = slice(0, min(neighbours, k))
        of_others = np.where(is_other[:, near], labels[rows[:, near]], -1)
        rivals[block], shares[block] = _most_frequent(of_others, depths)
        chosen = _first(is_same, candidates) | _first(is_other, others)
        photo, place = np.nonzero(chosen)
        one, other = own[photo], rows[photo, place].astype(np.int64)
        end = count + len(photo)
        keys[count:end] = np.minimum(one, other) * photos + np.maximum(one, other)
        count = end
    return Candidates(_distinct_pairs(keys[:count], photos), agreement, rivals, shares)


def _agreement(is_same: NDArray[np.bool_], depths: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the share of each photo's first `depths` neighbours (B, k) that agree; NaN for 0."""
    hits = np.cumsum(is_same, axis=1)[np.arange(len(depths)), np.maximum(depths, 1) - 1]
    return np.where(depths > 0, hits / np.maximum(depths, 1), np.nan).astype(np.float32)


def _most_frequent(
    labels: NDArray[np.int32], depths: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the most frequent label of each photo's first `depths` (B, n), and its share.

    -1 is no label. Of equally frequent labels the one of the nearest photo is returned.
    """
    labels = np.where(np.arange(labels.shape[1]) < depths[:, None], labels, -1)
    counts = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)
    counts[labels < 0] = 0
    own, best = np.arange(len(labels)), counts.argmax(axis=1)
    shares = counts[own, best] / np.maximum(depths, 1)
    return np.where(shares > 0, labels[own, best], -1).astype(np.int32), shares.astype(np.float32)


def _first(chosen: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Keep the first `count` marks of each row."""
    return chosen & (np.cumsum(chosen, axis=1) <= count)


def _distinct_pairs(keys: NDArray[np.int64], photos: int) -> NDArray[np.int32]:
    """Sort keys `lower row * photos + higher row` in place and return the distinct pairs."""
    keys.sort()
    total = 0
    for block in row_blocks(len(keys), _BLOCK_PAIRS):
        part = keys[block]
        before = keys[block.start - 1] if block.start else -1
        distinct = part[np.diff(part, prepend=before) != 0]
        keys[total : total + len(distinct)] = distinct  # never beyond the block that was read
        total += len(distinct)
    pairs = temporary_array((total, 2), np.int32)
    for block in row_blocks(total, _BLOCK_PAIRS):
        pairs[block, 0], pairs[block, 1] = np.divmod(keys[block], photos)
    return pairs

"""Join identical vectors before a graph is built: a graph of equal vectors is not connected."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.search.blocks import Vectors
from landmark.search.top_k import pads

_BLOCK_ROWS = 16384
_EXPANDED_RESULTS = 2**22


@dataclass(frozen=True, eq=False)
class Groups:
    """The M groups of identical rows of a gallery, in the order of their first rows.

    Attributes:
        order: (N,) all rows by group, ascending within a group.
        starts: (M + 1,) position in `order` where each group starts, and N.

    Example:
        >>> groups = find_identical(np.array([[1, 0], [0, 1], [1, 0]], np.float32))
        >>> groups.first.tolist(), len(groups)
        ([0, 1], 2)
        >>> rows, scores = np.array([[0, 1]]), np.array([[0.8, 0.6]], np.float32)
        >>> groups.expanded(rows, scores, k=3)[0].tolist()
        [[0, 2, 1]]
    """

    order: np.ndarray
    starts: np.ndarray

    @cached_property
    def first(self) -> np.ndarray:
        """(M,) first row of each group, ascending. Appended rows never change its beginning."""
        return self.order[self.starts[:-1]]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def expanded(
        self, rows: np.ndarray, scores: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace first rows by all rows of their groups.

        Args:
            rows: First rows of groups, (Q, K), -1 pads.
            scores: (Q, K), descending.
            k: Results per query.

        Returns:
            Rows (Q, k) int32 and scores (Q, k) float32 by descending score, ties by row.
        """
        best_rows, best_scores = pads(len(rows), k)
        block_size = _EXPANDED_RESULTS // max(1, k * rows.shape[1])
        for part in row_blocks(len(rows), block_size):
            query, row, score = self._members(rows[part], scores[part], k)
            order = np.lexsort((row, -score, query))
            query, row, score = query[order], row[order], score[order]
            rank = np.arange(len(query)) - np.searchsorted(query, query)
            good = rank < k
            best_rows[part][query[good], rank[good]] = row[good]
            best_scores[part][query[good], rank[good]] = score[good]
        return best_rows, best_scores

    def _members(
        self, rows: np.ndarray, scores: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return query, row and score of all members that may be among the k best."""
        groups = np.searchsorted(self.first, np.maximum(rows, 0))
        sizes = np.minimum(np.diff(self.starts)[groups], k)
        sizes[rows < 0] = 0
        total = np.cumsum(sizes, axis=1)
        # Groups after the one that completes k rows are needed only if they tie with it.
        last = np.where(total >= k, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
        sizes[scores < last] = 0
        counts = sizes.ravel()
        query = np.repeat(np.arange(rows.size) // rows.shape[1], counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        row = self.order[np.repeat(self.starts[groups.ravel()], counts) + within]
        return query, row, np.repeat(scores.ravel(), counts)


def find_identical(gallery: Vectors) -> Groups | None:
    """Group the rows of a gallery whose bytes are equal.

    Rows are compared by a hash of their bytes, and rows of one hash byte by byte, so memory is 32
    bytes per row.

    Args:
        gallery: (N, D), may be memory-mapped or stacked.

    Returns:
        None if all rows differ.

    Example:
        >>> find_identical(np.eye(3)) is None
        True
    """
    hashes = _hashes(gallery)
    order = np.argsort(hashes, kind="stable")
    is_repeated = np.append(False, hashes[order[1:]] == hashes[order[:-1]])
    if not is_repeated.any():
        return None
    starts = np.maximum.accumulate(np.where(is_repeated, 0, np.arange(len(order))))
    rows, leaders = order[is_repeated], order[starts[is_repeated]]
    leader_of = np.arange(len(order))
    for block in row_blocks(len(rows), _BLOCK_ROWS):
        same = _words(gallery[rows[block]]) == _words(gallery[leaders[block]])
        equal = same.all(axis=1)
        leader_of[rows[block][equal]] = leaders[block][equal]
    order = np.argsort(leader_of, kind="stable")
    firsts = np.flatnonzero(np.diff(leader_of[order], prepend=-1))
    if len(firsts) == len(order):
        return None
    return Groups(order.astype(np.int32), np.append(firsts, len(order)))


def _hashes(gallery: Vectors) -> np.ndarray:
    """Return a multilinear hash of the bytes of each row, (N,) uint64."""
    hashes = np.empty(len(gallery), np.uint64)
    factors = None
    for block in row_blocks(len(gallery), _BLOCK_ROWS):
        words = _words(gallery[block])
        if factors is None:
            random = np.random.default_rng(0)
            factors = random.integers(2**63, 2**64, words.shape[1], np.uint64) | np.uint64(1)
        hashes[block] = words.astype(np.uint64) @ factors
    return hashes


def _words(vectors: np.ndarray) -> np.ndarray:
    """View vectors (n, D) as unsigned integers of at most 32 bits, (n, W)."""
    size = min(vectors.dtype.itemsize, 4)
    return np.ascontiguousarray(vectors).view(f"u{size}")

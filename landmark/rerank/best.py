"""The best results of each query, of many that come in pieces."""

from typing import NamedTuple

import numpy as np

_KEPT_BACK = 2**22


class Triplets(NamedTuple):
    """Results of several queries: of each its query, row and score, all (P,)."""

    query: np.ndarray
    rows: np.ndarray
    scores: np.ndarray


class Best:
    """The k rows of the highest scores of each query, of equal ones the lower row.

    Pieces must come by ascending row: a later row never replaces an earlier one of equal score.

    Args:
        queries: Q.
        k: Rows kept of each.
        above: Only higher scores count.
    """

    def __init__(self, queries: int, k: int, above: float = 0) -> None:
        self.k = k
        self._above = above
        self._rows = np.full((queries, k), -1, np.int32)
        self._scores = np.full((queries, k), -np.inf, np.float32)
        self._waiting: list[Triplets] = []
        self._count = 0

    def better(self, query: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> Triplets:
        """Those results that may still be among the best."""
        good = (scores > self._above) & (scores > self._scores[query, -1])
        return Triplets(query[good], rows[good], scores[good])

    def add(self, results: Triplets) -> None:
        """Take results in, no pair of query and row twice."""
        self._waiting.append(results)
        self._count += len(results.query)
        if self._count >= _KEPT_BACK:
            self.settle()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows (Q, k) int32 by falling score, -1 pads, and scores (Q, k) float32, -inf there."""
        self.settle()
        return self._rows, self._scores

    def lowest(self, queries: slice) -> np.ndarray:
        """Scores that results of some queries must exceed, (B,)."""
        return self._scores[queries, -1]

    def settle(self) -> None:
        """Sort in what was taken in; done at the end, and in between where much is waiting."""
        if not self._waiting:
            return
        query, rows, scores = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        touched = np.unique(query)
        kept = self._rows[touched]
        held = kept >= 0
        query = np.concatenate([np.broadcast_to(touched[:, None], kept.shape)[held], query])
        rows = np.concatenate([kept[held], rows])
        scores = np.concatenate([self._scores[touched][held], scores])
        order = np.lexsort((rows, -scores, query))
        query, rows, scores = query[order], rows[order], scores[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        good = place < self._rows.shape[1]
        self._rows[query[good], place[good]] = rows[good]
        self._scores[query[good], place[good]] = scores[good]

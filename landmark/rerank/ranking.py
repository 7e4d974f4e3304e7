"""Rankings assembled from pieces: the best of many results, and short lists filled up."""

from typing import NamedTuple

import numpy as np

from landmark.artifact.vectors import row_blocks

_WAITING_RESULTS = 2**22
_BLOCK_RESULTS = 2**20


class Triplets(NamedTuple):
    """Results of several queries: the query, row and score of each, all (P,)."""

    query: np.ndarray
    rows: np.ndarray
    scores: np.ndarray


class Best:
    """The k rows of the highest scores of each query, ties by row.

    Pieces must come by ascending row: a later row never replaces an earlier one of equal score.

    Args:
        queries: Q.
        k: Rows kept of each.
        above: Only higher scores count.

    Example:
        >>> best = Best(queries=1, k=2)
        >>> for rows, scores in (([0, 1], [0.2, 0.9]), ([2, 3], [0.9, 0.5])):
        ...     best.add(Triplets(np.zeros(2, int), np.array(rows), np.array(scores)))
        >>> best.result()[0].tolist()
        [[1, 2]]
    """

    def __init__(self, queries: int, k: int, above: float = 0) -> None:
        self.k = k
        self._above = above
        self._rows = np.full((queries, k), -1, np.int32)
        self._scores = np.full((queries, k), -np.inf, np.float32)
        self._waiting: list[Triplets] = []
        self._count = 0

    def better(self, query: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> Triplets:
        """Return the results that may still be among the best."""
        good = (scores > self._above) & (scores > self._scores[query, -1])
        return Triplets(query[good], rows[good], scores[good])

    def add(self, results: Triplets) -> None:
        """Add results, no pair of query and row twice."""
        self._waiting.append(results)
        self._count += len(results.query)
        if self._count >= _WAITING_RESULTS:
            self.settle()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (Q, k) int32 by descending score, -1 pads, and scores (Q, k) float32."""
        self.settle()
        return self._rows, self._scores

    def lowest(self, queries: slice) -> np.ndarray:
        """Return the scores that results of some queries must exceed, (B,)."""
        return self._scores[queries, -1]

    def settle(self) -> None:
        """Merge what was added; done at the end, and in between where much is waiting."""
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


def filled_up(
    rows: np.ndarray, scores: np.ndarray, former_rows: np.ndarray, former_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rankings followed by the photos of the former ones, in their former order.

    The scores of those photos descend along the ranking, below the method's, and mean no more.

    Args:
        rows: (Q, K) best first, -1 pads at the end.
        scores: (Q, K) descending, -inf at the pads.
        former_rows: (Q, K), -1 pads.
        former_scores: (Q, K).

    Returns:
        Rows (Q, K) int32 and scores (Q, K) float32.

    Example:
        >>> rows, former = np.array([[4, -1, -1]]), np.array([[3, 4, 1]])
        >>> scores, former_scores = np.array([[0.9, -np.inf, -np.inf]]), np.array([[0.8, 0.7, 0.6]])
        >>> filled_up(rows, scores, former, former_scores)[0].tolist()
        [[4, 3, 1]]
    """
    rows, scores = rows.astype(np.int32), scores.astype(np.float32)
    short = np.flatnonzero((rows < 0).any(axis=1))
    for block in row_blocks(len(short), _BLOCK_RESULTS // max(1, rows.shape[1])):
        part = short[block]
        rows[part], scores[part] = _filled_up(
            rows[part], scores[part], former_rows[part], former_scores[part]
        )
    return rows, scores


def _filled_up(
    rows: np.ndarray, scores: np.ndarray, former_rows: np.ndarray, former_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    is_new = (former_rows >= 0) & ~listed_in(former_rows, rows)
    is_ranked = rows >= 0
    lowest = np.where(is_ranked, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    highest = np.where(is_new, former_scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    below = np.where(np.isfinite(lowest), lowest - 1, 0)
    with np.errstate(invalid="ignore"):  # where nothing is new
        moved = np.where(is_new, former_scores - highest + below, -np.inf)
    group = np.concatenate([np.where(is_ranked, 0, 2), np.where(is_new, 1, 2)], axis=1)
    order = np.argsort(group, axis=1, kind="stable")[:, : rows.shape[1]]
    candidates = np.concatenate([rows, np.where(is_new, former_rows, -1)], axis=1)
    values = np.concatenate([scores, moved], axis=1)
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(values, order, 1)


def listed_in(rows: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Which of a query's rows are in its list.

    Args:
        rows: (Q, J), -1 is none.
        lists: (Q, K), -1 is none.

    Returns:
        (Q, J) bool; undefined at -1.

    Example:
        >>> listed_in(np.array([[5, 1]]), np.array([[1, 2, -1]])).tolist()
        [[False, True]]
    """
    beyond = int(max(rows.max(initial=0), lists.max(initial=0))) + 1
    # Shift each query's rows to a range of its own, so that one search looks all of them up.
    shift = np.arange(len(rows), dtype=np.int64)[:, None] * (beyond + 1)
    numbers = np.sort(np.where(lists < 0, beyond, lists) + shift, axis=1).ravel()
    wanted = rows + shift
    return numbers[np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1)] == wanted

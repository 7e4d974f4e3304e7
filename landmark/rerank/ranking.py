"""Assemble rankings: keep the best of many results, and fill up short rankings."""

from typing import NamedTuple

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.search.top_k import best_in_order

_WAITING_RESULTS = 2**22
_BLOCK_RESULTS = 2**20


class Triplets(NamedTuple):
    """P results of several queries.

    Attributes:
        query: Query of each result, (P,).
        rows: Gallery row of each result, (P,).
        scores: Score of each result, (P,).

    Example:
        >>> results = Triplets(np.array([0, 0, 1]), np.array([5, 2, 5]), np.array([0.9, 0.8, 0.3]))
        >>> results.rows[results.query == 0].tolist()
        [5, 2]
    """

    query: np.ndarray
    rows: np.ndarray
    scores: np.ndarray


def others(results: Triplets, own_rows: np.ndarray | None) -> Triplets:
    """Return the results without each query's own photo.

    Args:
        results: P results.
        own_rows: (Q,) gallery row of each query's own photo, -1 for none. None means that no query
            is in the gallery.

    Example:
        >>> results = Triplets(np.array([0, 0]), np.array([5, 2]), np.array([0.9, 0.8]))
        >>> others(results, np.array([5])).rows.tolist()
        [2]
    """
    if own_rows is None:
        return results
    is_other = results.rows != own_rows[results.query]
    return Triplets(*(values[is_other] for values in results))


class Best:
    """Collect the k rows with the highest positive scores for each query, ties by row.

    Results must be added by ascending row: a row never replaces an earlier row with an equal score.

    Args:
        queries: Number of queries, Q.
        k: Rows per query.

    Example:
        >>> best = Best(queries=1, k=2)
        >>> for rows, scores in (([0, 1], [0.2, 0.9]), ([2, 3], [0.9, 0.5])):
        ...     best.add(Triplets(np.zeros(2, int), np.array(rows), np.array(scores)))
        >>> best.result()[0].tolist()
        [[1, 2]]
    """

    def __init__(self, queries: int, k: int) -> None:
        self._rows = np.full((queries, k), -1, np.int32)
        self._scores = np.full((queries, k), -np.inf, np.float32)
        self._waiting: list[Triplets] = []
        self._count = 0

    def better(self, query: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> Triplets:
        """Return the results that may be among the best."""
        good = scores > np.maximum(self._scores[query, -1], 0)
        return Triplets(query[good], rows[good], scores[good])

    def add(self, results: Triplets) -> None:
        """Add results; a pair of query and row may be added only once."""
        self._waiting.append(results)
        self._count += len(results.query)
        if self._count >= _WAITING_RESULTS:
            self._settle()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (Q, k) int32 by descending score, -1 pads, and scores (Q, k) float32."""
        self._settle()
        return self._rows, self._scores

    def _settle(self) -> None:
        """Merge the buffered results."""
        if not self._waiting:
            return
        query, rows, scores = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._count = [], 0
        touched = np.unique(query)
        previous = self._rows[touched]
        is_ranked = previous >= 0
        own_query = np.broadcast_to(touched[:, None], previous.shape)
        query = np.concatenate([own_query[is_ranked], query])
        rows = np.concatenate([previous[is_ranked], rows])
        scores = np.concatenate([self._scores[touched][is_ranked], scores])
        order = np.lexsort((rows, -scores, query))
        query, rows, scores = query[order], rows[order], scores[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        good = rank < self._rows.shape[1]
        self._rows[query[good], rank[good]] = rows[good]
        self._scores[query[good], rank[good]] = scores[good]


def filled_up(
    rows: np.ndarray, scores: np.ndarray, previous_rows: np.ndarray, previous_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fill up rankings with photos of the previous rankings, in their previous order.

    The scores of the appended photos only keep the order: they are shifted below the others.

    Args:
        rows: (Q, K) best first, -1 pads at the end.
        scores: (Q, K) descending, -inf at the pads.
        previous_rows: (Q, K), -1 pads.
        previous_scores: (Q, K).

    Returns:
        Rows (Q, K) int32 and scores (Q, K) float32.

    Example:
        >>> rows, scores = np.array([[4, -1, -1]]), np.array([[0.9, -np.inf, -np.inf]])
        >>> previous_rows, previous_scores = np.array([[3, 4, 1]]), np.array([[0.8, 0.7, 0.6]])
        >>> filled_up(rows, scores, previous_rows, previous_scores)[0].tolist()
        [[4, 3, 1]]
    """
    rows, scores = rows.astype(np.int32), scores.astype(np.float32)
    short = np.flatnonzero((rows < 0).any(axis=1))
    for block in row_blocks(len(short), _BLOCK_RESULTS // max(1, rows.shape[1])):
        part = short[block]
        rows[part], scores[part] = _filled_up(
            rows[part], scores[part], previous_rows[part], previous_scores[part]
        )
    return rows, scores


def _filled_up(
    rows: np.ndarray, scores: np.ndarray, previous_rows: np.ndarray, previous_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    is_new = (previous_rows >= 0) & ~listed_in(previous_rows, rows)
    is_ranked = rows >= 0
    lowest = np.where(is_ranked, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    highest = np.where(is_new, previous_scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    below = np.where(np.isfinite(lowest), lowest - 1, 0)
    with np.errstate(invalid="ignore"):  # where nothing is new
        shifted = np.where(is_new, previous_scores - highest + below, -np.inf)
    group = np.concatenate([np.where(is_ranked, 0, 2), np.where(is_new, 1, 2)], axis=1)
    order = np.argsort(group, axis=1, kind="stable")[:, : rows.shape[1]]
    candidates = np.concatenate([rows, np.where(is_new, previous_rows, -1)], axis=1)
    values = np.concatenate([scores, shifted], axis=1)
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(values, order, 1)


def shift_below(scores: np.ndarray, remaining: np.ndarray, gap: float = 0.0) -> np.ndarray:
    """Shift the remaining scores of a ranking below its new top scores, where they are not.

    Args:
        scores: (Q, m) new scores of the top results, -inf at the pads.
        remaining: (Q, J) scores of the remaining results, descending, -inf at the pads.
        gap: Least difference between the lowest top score and the first remaining score.

    Returns:
        (Q, J) the remaining scores, all of a query shifted alike.

    Example:
        >>> shift_below(np.array([[0.9, 0.25]]), np.array([[0.5, 0.375]])).tolist()
        [[0.25, 0.125]]
    """
    lowest = np.where(np.isfinite(scores), scores, np.inf).min(axis=1, keepdims=True) - gap
    with np.errstate(invalid="ignore"):
        shift = lowest - remaining[:, :1]
    shift = np.where(np.isfinite(shift), np.minimum(shift, 0), 0)
    return np.minimum(remaining + shift, lowest)


def reorder_top(
    rows: np.ndarray, scores: np.ndarray, new: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sort the top results by new scores, in place, and shift the remaining scores below them.

    Args:
        rows: (Q, K) int32, -1 pads.
        scores: (Q, K) float32, descending, -inf at the pads.
        new: (Q, m) scores of the top results, -inf at the pads.

    Returns:
        `rows` and `scores`.

    Example:
        >>> rows, scores = np.array([[4, 2, 7]]), np.array([[0.9, 0.8, 0.7]], np.float32)
        >>> reorder_top(rows, scores, np.array([[0.25, 0.5]], np.float32))
        (array([[2, 4, 7]]), array([[0.5 , 0.25, 0.25]], dtype=float32))
    """
    top = new.shape[1]
    rows[:, :top], scores[:, :top] = best_in_order([(rows[:, :top], new)], top)
    scores[:, top:] = shift_below(scores[:, :top], scores[:, top:])
    return rows, scores


def listed_in(rows: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Return which of a query's rows are in its list.

    Args:
        rows: (Q, J), -1 pads.
        lists: (Q, K), -1 pads.

    Returns:
        (Q, J) bool; undefined at the pads.

    Example:
        >>> listed_in(np.array([[5, 1]]), np.array([[1, 2, -1]])).tolist()
        [[False, True]]
    """
    beyond = int(max(rows.max(initial=0), lists.max(initial=0))) + 1
    # Shift each query's rows to a disjoint range, so that a single binary search serves all.
    shift = np.arange(len(rows), dtype=np.int64)[:, None] * (beyond + 1)
    listed = np.sort(np.where(lists < 0, beyond, lists) + shift, axis=1).ravel()
    keys = rows + shift
    return listed[np.minimum(np.searchsorted(listed, keys), len(listed) - 1)] == keys

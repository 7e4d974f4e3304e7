"""Rankings joined and put in order: the best k of several, equal scores by row."""

from collections.abc import Sequence

import numpy as np


def pads(queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """A ranking that holds nothing: rows (Q, k) int32 of -1, scores (Q, k) float32 of -inf."""
    return np.full((queries, k), -1, np.int32), np.full((queries, k), -np.inf, np.float32)


def merge(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of each line of two rankings, both by falling score.

    Args:
        one: rows (Q, I) int64, -1 pads, and scores (Q, I) float32, -inf at the pads; I <= k.
        other: rows and scores (Q, J), J <= k.
        k: Results a line.

    Returns:
        rows and scores (Q, k) by falling score; of equal ones in any order.
    """
    import faiss

    rows = np.stack([_widened(rows, k, -1) for rows, _ in (one, other)])
    scores = np.stack([_widened(scores, k, -np.inf) for _, scores in (one, other)])
    scores, rows = faiss.merge_knn_results(scores, rows, keep_max=True)
    return rows, scores


def _widened(lines: np.ndarray, k: int, value: float) -> np.ndarray:
    """(Q, J) as (Q, k), filled with a value."""
    if lines.shape[1] == k:
        return lines
    return np.pad(lines, ((0, 0), (0, k - lines.shape[1])), constant_values=value)


def ties_by_row(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put equal scores, side by side in each line of (Q, K), in the order of their rows."""
    tied = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    order = np.lexsort((rows[tied], -scores[tied]), axis=1)
    rows[tied] = np.take_along_axis(rows[tied], order, axis=1)
    return rows, scores


def best_in_order(
    rankings: Sequence[tuple[np.ndarray, np.ndarray]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of each line of rankings of consecutive parts of a gallery, equal scores by row.

    Args:
        rankings: rows and scores (Q, k) of each part, in the order of the parts, each by falling
            score and equal scores by row; -1 and -inf pad.
        k: Results a line.

    Returns:
        rows and scores (Q, k), likewise.
    """
    rows = np.concatenate([rows for rows, _ in rankings], axis=1)
    scores = np.concatenate([scores for _, scores in rankings], axis=1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)

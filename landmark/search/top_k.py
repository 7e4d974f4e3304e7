"""Operations on top-k rankings: pad, merge, order ties, re-score, and compute recall."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from landmark.artifact.vectors import row_blocks
from landmark.search.blocks import Vectors, to_float32

_CANDIDATE_VALUES = 2**24  # of the candidates re-scored together: 64 MB


def pads(queries: int, k: int, dtype: DTypeLike = np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Return an empty ranking: rows (Q, k) int32 of -1, scores (Q, k) of -inf.

    Example:
        >>> [values.tolist() for values in pads(1, 2)]
        [[[-1, -1]], [[-inf, -inf]]]
    """
    return np.full((queries, k), -1, np.int32), np.full((queries, k), -np.inf, dtype)


def merge(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge two rankings, both by descending score, into the top k of each query.

    Args:
        one: Rows (Q, I) int64, -1 pads, and scores (Q, I) float32, -inf at the pads; I <= k.
        other: Rows and scores (Q, J), J <= k.
        k: Results per query.

    Returns:
        Rows and scores (Q, k) by descending score; ties in any order.

    Example:
        >>> one = np.array([[4, 2]]), np.array([[0.9, 0.3]], np.float32)
        >>> other = np.array([[7]]), np.array([[0.5]], np.float32)
        >>> merge(one, other, 2)[0].tolist()
        [[4, 7]]
    """
    import faiss

    rows = np.stack([_padded(rows, k, -1) for rows, _ in (one, other)])
    scores = np.stack([_padded(scores, k, -np.inf) for _, scores in (one, other)])
    scores, rows = faiss.merge_knn_results(scores, rows, keep_max=True)
    return rows, scores


def _padded(values: np.ndarray, k: int, pad: float) -> np.ndarray:
    """Pad (Q, J) to (Q, k)."""
    if values.shape[1] == k:
        return values
    return np.pad(values, ((0, 0), (0, k - values.shape[1])), constant_values=pad)


def ties_by_row(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order equal scores by row, in place; rows and scores are (Q, K), by descending score.

    Example:
        >>> ties_by_row(np.array([[5, 1, 0]]), np.array([[0.9, 0.9, 0.2]]))[0].tolist()
        [[1, 5, 0]]
    """
    tied = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    order = np.lexsort((rows[tied], -scores[tied]), axis=1)
    rows[tied] = np.take_along_axis(rows[tied], order, axis=1)
    return rows, scores


def without_rows(
    rows: np.ndarray, scores: np.ndarray, dropped: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Drop one row from each ranking, or its last result if the row is not in it.

    Args:
        rows: (Q, K), -1 pads.
        scores: (Q, K).
        dropped: (Q,) row to drop; -1 for none.

    Returns:
        Rows and scores (Q, K - 1) in the same order.

    Example:
        >>> rows, scores = np.array([[4, 2], [4, 2]]), np.array([[0.9, 0.3], [0.9, 0.3]])
        >>> without_rows(rows, scores, np.array([4, -1]))[0].tolist()
        [[2], [4]]
    """
    for part in row_blocks(len(rows), _CANDIDATE_VALUES // rows.shape[1]):
        query, place = np.nonzero((rows[part] == dropped[part, None]) & (dropped[part, None] >= 0))
        query += part.start
        later = np.arange(rows.shape[1] - 1)
        later = later + (later >= place[:, None])
        for values in (rows, scores):
            values[query, :-1] = np.take_along_axis(values[query], later, axis=1)
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(scores[:, :-1])


def best_in_order(
    rankings: Sequence[tuple[np.ndarray, np.ndarray]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge several rankings into the top k of each query, in stable order.

    Ties keep the order of the rankings, so rankings of consecutive parts of a gallery with ties by
    row are merged into a ranking with ties by row.

    Args:
        rankings: Rows and scores (Q, K) of each ranking; -1 and -inf pad.
        k: Results per query.

    Returns:
        Rows and scores (Q, k) by descending score.

    Example:
        >>> first = np.array([[1, 0]]), np.array([[0.9, 0.3]])
        >>> second = np.array([[2, 3]]), np.array([[0.9, 0.8]])
        >>> best_in_order([first, second], 3)[0].tolist()
        [[1, 2, 3]]
    """
    rows = np.concatenate([rows for rows, _ in rankings], axis=1)
    scores = np.concatenate([scores for _, scores in rankings], axis=1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)


def rescore(
    query: np.ndarray, gallery: Vectors, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k candidates of each query with the largest inner product.

    Args:
        query: (Q, D) float32.
        gallery: (N, D); only the candidates' rows are read.
        candidates: Gallery rows (Q, C), k <= C, -1 pads.
        k: Results per query.

    Returns:
        Rows (Q, k) and scores (Q, k) float32 by descending score, ties by row; pads last.

    Example:
        >>> query, gallery = np.array([[0.6, 0.8]], np.float32), np.eye(2, dtype=np.float32)
        >>> rescore(query, gallery, np.array([[-1, 0, 1]]), 2)[0].tolist()
        [[1, 0]]
    """
    rows = np.empty((len(query), k), candidates.dtype)
    scores = np.empty((len(query), k), np.float32)
    block_size = _CANDIDATE_VALUES // max(1, candidates.shape[1] * gallery.shape[1])
    for part in row_blocks(len(query), block_size):
        # Sort by row first, so that the stable sort by score orders ties by row.
        ordered = np.sort(candidates[part], axis=1)
        vectors = _float32(gallery[np.maximum(ordered, 0)])  # (q, C, D)
        # einsum, not matmul: on such small slices BLAS threads cost more than they save.
        products = np.einsum("qcd,qd->qc", vectors, query[part])
        products[ordered < 0] = -np.inf
        rows[part], scores[part] = best_in_order([(ordered, products)], k)
    return ties_by_row(rows, scores)


def _float32(vectors: np.ndarray) -> np.ndarray:
    """Convert (q, C, D) to float32 if necessary."""
    if vectors.dtype == np.float32:
        return vectors
    converted = np.empty(vectors.shape, np.float32)
    dim = vectors.shape[-1]
    to_float32(vectors.reshape(-1, dim), converted.reshape(-1, dim))
    return converted


def recall_at_k(rows: np.ndarray, true_rows: np.ndarray) -> float:
    """Return the share of the true nearest rows that a search returned, over all queries.

    Args:
        rows: Returned rows, (Q, K), -1 pads.
        true_rows: True nearest rows, (Q, K); -1 pads, which do not count.

    Returns:
        Recall, 0 to 1; 1 if there are no true rows.

    Example:
        >>> recall_at_k(np.array([[3, 1]]), np.array([[1, 2]]))
        0.5
    """
    both = np.concatenate([rows, true_rows], axis=1).astype(np.int64)
    # Shift each query's rows to a disjoint range, so that a single look-up serves all.
    shifted = both + np.arange(len(both))[:, None] * (both.max(initial=0) + 2)
    returned, true = shifted[:, : rows.shape[1]], shifted[:, rows.shape[1] :]
    expected = true[true_rows >= 0]
    return float(np.isin(expected, returned[rows >= 0]).mean()) if len(expected) else 1.0

"""Rankings: empty, merged, put in order, rescored, and compared with the truth."""

from collections.abc import Sequence

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.search.blocks import Vectors, to_float32

_CANDIDATE_VALUES = 2**24  # of the candidates rescored together: 64 MB


def pads(queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """An empty ranking: rows (Q, k) int32 of -1, scores (Q, k) float32 of -inf.

    Example:
        >>> [values.tolist() for values in pads(1, 2)]
        [[[-1, -1]], [[-inf, -inf]]]
    """
    return np.full((queries, k), -1, np.int32), np.full((queries, k), -np.inf, np.float32)


def merge(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each line of two rankings, both by descending score.

    Args:
        one: Rows (Q, I) int64, -1 pads, and scores (Q, I) float32, -inf at the pads; I <= k.
        other: Rows and scores (Q, J), J <= k.
        k: Results of a line.

    Returns:
        Rows and scores (Q, k) by descending score; equal ones in any order.

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


def _padded(lines: np.ndarray, k: int, value: float) -> np.ndarray:
    """(Q, J) as (Q, k), filled with a value."""
    if lines.shape[1] == k:
        return lines
    return np.pad(lines, ((0, 0), (0, k - lines.shape[1])), constant_values=value)


def ties_by_row(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order equal scores, adjacent in each line of (Q, K), by row.

    Example:
        >>> ties_by_row(np.array([[5, 1, 0]]), np.array([[0.9, 0.9, 0.2]]))[0].tolist()
        [[1, 5, 0]]
    """
    tied = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    order = np.lexsort((rows[tied], -scores[tied]), axis=1)
    rows[tied] = np.take_along_axis(rows[tied], order, axis=1)
    return rows, scores


def best_in_order(
    rankings: Sequence[tuple[np.ndarray, np.ndarray]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of each line of several rankings; of equal scores the first comes first.

    So rankings of consecutive parts of a gallery, each with ties by row, give one with ties by row.

    Args:
        rankings: Rows and scores (Q, K) of each; -1 and -inf pad.
        k: Results of a line.

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
    """The k candidates of each query with the largest inner product.

    Args:
        query: (Q, D) float32.
        gallery: (N, D); only the candidates' rows are read.
        candidates: Gallery rows (Q, C), k <= C, -1 pads.
        k: Results of a query.

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
        # Ordered by row, so that a stable sort by score leaves equal scores by row.
        ordered = np.sort(candidates[part], axis=1)
        vectors = _float32(gallery[np.maximum(ordered, 0)])  # (q, C, D)
        # Not as a matrix product: the threads of BLAS cost more than they save on such slices.
        products = np.einsum("qcd,qd->qc", vectors, query[part])
        products[ordered < 0] = -np.inf
        rows[part], scores[part] = best_in_order([(ordered, products)], k)
    return ties_by_row(rows, scores)


def _float32(vectors: np.ndarray) -> np.ndarray:
    """(q, C, D), converted where necessary."""
    if vectors.dtype == np.float32:
        return vectors
    converted = np.empty(vectors.shape, np.float32)
    dim = vectors.shape[-1]
    to_float32(vectors.reshape(-1, dim), converted.reshape(-1, dim))
    return converted


def recall_at_k(rows: np.ndarray, true_rows: np.ndarray) -> float:
    """Share of the true nearest rows that a search returned, over all queries.

    Args:
        rows: Rows returned, (Q, K), -1 pads.
        true_rows: The nearest rows, (Q, K), -1 pads, which do not count.

    Returns:
        0 to 1; 1 where there is nothing to find.

    Example:
        >>> recall_at_k(np.array([[3, 1]]), np.array([[1, 2]]))
        0.5
    """
    every = np.concatenate([rows, true_rows], axis=1).astype(np.int64)
    # Shift each query's rows to a range of its own, so that one look-up serves all.
    shifted = every + np.arange(len(every))[:, None] * (every.max(initial=0) + 2)
    hits, true = shifted[:, : rows.shape[1]], shifted[:, rows.shape[1] :]
    wanted = true[true_rows >= 0]
    return float(np.isin(wanted, hits[rows >= 0]).mean()) if len(wanted) else 1.0

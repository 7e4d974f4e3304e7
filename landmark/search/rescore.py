"""The candidates of an approximate search put in order by their exact scores."""

import numpy as np

from landmark.artifact.stacked import StackedVectors
from landmark.search.blocks import convert
from landmark.search.top_k import ties_by_row

_CANDIDATE_VALUES = 2**24  # values of candidates held at once: 64 MB


def rescore(
    query: np.ndarray, gallery: np.ndarray | StackedVectors, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k candidates of the largest inner product, of each query.

    Args:
        query: (Q, D) float32.
        gallery: (N, D); only the candidates' rows are read.
        candidates: Gallery rows (Q, C), k <= C, -1 pads.
        k: Results a query.

    Returns:
        rows (Q, k) and scores (Q, k) float32 by falling score, equal scores by row; pads last.
    """
    rows = np.empty((len(query), k), candidates.dtype)
    scores = np.empty((len(query), k), np.float32)
    at_once = max(1, _CANDIDATE_VALUES // max(1, candidates.shape[1] * gallery.shape[1]))
    for first in range(0, len(query), at_once):
        part = slice(first, first + at_once)
        # In the order of rows, so that a stable sort by score leaves equal scores by row.
        ordered = np.sort(candidates[part], axis=1)
        vectors = _float32(gallery[np.maximum(ordered, 0)])  # (q, C, D)
        # Not as a matrix product: the threads of BLAS cost more than they give on such slices.
        products = np.einsum("qcd,qd->qc", vectors, query[part])
        products[ordered < 0] = -np.inf
        best = np.argsort(-products, axis=1, kind="stable")[:, :k]
        rows[part] = np.take_along_axis(ordered, best, axis=1)
        scores[part] = np.take_along_axis(products, best, axis=1)
    return ties_by_row(rows, scores)


def _float32(vectors: np.ndarray) -> np.ndarray:
    """(q, C, D), converted if it must be."""
    if vectors.dtype == np.float32:
        return vectors
    converted = np.empty(vectors.shape, np.float32)
    dim = vectors.shape[-1]
    convert(vectors.reshape(-1, dim), converted.reshape(-1, dim))
    return converted

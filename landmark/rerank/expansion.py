"""Replace descriptors by weighted sums of their neighbours."""

from collections.abc import Callable

import numpy as np

from landmark.error import UserError
from landmark.rerank.parallel import across_ranks
from landmark.rerank.retrieval import Retrieval

Weights = Callable[[np.ndarray], np.ndarray]
_NEIGHBOUR_VALUES = 2**24  # of the neighbours in a block: 64 MB


def alpha_weights(alpha: float) -> Weights:
    """Return the weights max(cosine, 0)^alpha; alpha = 0 weights all neighbours equally.

    Example:
        >>> alpha_weights(2)(np.array([0.5, -0.5])).tolist()
        [0.25, 0.0]
    """
    return lambda cosines: np.maximum(cosines, 0) ** np.float32(alpha)


def expand(
    descriptors: np.ndarray,
    gallery: np.ndarray,
    rows: np.ndarray,
    weights: Weights,
    include: bool,
) -> np.ndarray:
    """Sum each descriptor's weighted neighbours and normalise to unit length.

    The cosines are computed from the descriptors, not taken from the ranking's scores.

    Args:
        descriptors: (B, D), unit rows.
        gallery: (N, D), unit rows; may be memory-mapped.
        rows: Neighbours of each descriptor in the gallery, (B, n), nearest first; -1 pads.
        weights: Maps cosines (B, n) to weights (B, n).
        include: Add the descriptor itself with weight 1.

    Returns:
        (B, D) float32. A descriptor whose sum is 0 is returned unchanged.

    Example:
        >>> gallery = np.array([[1, 0], [0.6, 0.8]], np.float32)
        >>> expand(gallery, gallery, np.array([[0], [0]]), alpha_weights(0), True)[1].round(2)
        array([0.89, 0.45], dtype=float32)
    """
    own = np.asarray(descriptors, np.float32)
    neighbours = descriptors_of(gallery, rows)  # (B, n, D)
    cosines = (neighbours @ own[:, :, None])[:, :, 0]
    shares = np.where(rows >= 0, weights(cosines), 0)
    summed = (shares[:, None, :] @ neighbours)[:, 0]  # (B, D)
    if include:
        summed += own
    length = np.linalg.norm(summed, axis=1, keepdims=True)
    return np.where(length > 0, summed / np.where(length > 0, length, 1), own)


def expansion_block(gallery: np.ndarray, n: int) -> int:
    """Return how many descriptors to expand together with n neighbours each.

    Example:
        >>> expansion_block(np.empty((9, 512), np.float32), n=32)
        1024
    """
    return _NEIGHBOUR_VALUES // (n * gallery.shape[1])


def descriptors_of(gallery: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the descriptors (B, n, D) float32 of gallery rows (B, n); arbitrary at -1.

    Example:
        >>> descriptors_of(np.array([[1, 0], [0, 2]]), np.array([[1, 0]])).tolist()
        [[[0.0, 2.0], [1.0, 0.0]]]
    """
    flat = np.asarray(gallery[np.maximum(rows, 0).ravel()], np.float32)
    return flat.reshape(*rows.shape, gallery.shape[1])


def cosines_of(query: np.ndarray, gallery: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the cosines (B, n) float32 of B queries with gallery rows (B, n); -inf at -1.

    Example:
        >>> gallery = np.array([[1, 0], [0.6, 0.8]])
        >>> cosines_of(gallery[:1], gallery, np.array([[1, -1]])).round(1).tolist()
        [[0.6000000238418579, -inf]]
    """
    results = descriptors_of(gallery, rows)  # (B, n, D)
    cosines = np.einsum("bd,bnd->bn", np.asarray(query, np.float32), results)
    cosines[rows < 0] = -np.inf
    return cosines


def expanded_search(retrieval: Retrieval, name: str, n: int, weights: Weights) -> Retrieval:
    """Expand each query with its top n results and search again.

    Args:
        retrieval: The ranking to expand with.
        name: Name of the re-ranker, for error messages.
        n: Number of results to add.
        weights: Maps cosines to weights.

    Returns:
        The retrieval with new queries, rows and scores.

    Raises:
        UserError: The ranking is shorter than `n` although the gallery is not.

    Example:
        >>> from landmark.search import Flat
        >>> query, gallery = np.array([[1, 0]], np.float32), np.array([[0.6, 0.8]], np.float32)
        >>> retrieval = Retrieval.from_search(query, gallery, k=1, search=Flat())
        >>> expanded = expanded_search(retrieval, "alpha_qe", 1, alpha_weights(0))
        >>> expanded.query.round(2).astype(str).tolist()
        [['0.89', '0.45']]
    """
    length = retrieval.rows.shape[1]
    if length < min(n, len(retrieval.gallery)):
        raise UserError(
            f"rerank.{name}.n={n} is more than the k={length} results per query. "
            f"Pass k={n} or more, or rerank.{name}.n={length}."
        )

    def expanded(queries: slice) -> tuple[np.ndarray]:
        own, nearest = retrieval.query[queries], retrieval.rows[queries, :n]
        return (expand(own, retrieval.gallery, nearest, weights, include=True),)

    block_size = expansion_block(retrieval.gallery, n)
    (query,) = across_ranks(len(retrieval.query), expanded, block_size)
    return retrieval.searched(query=query)

"""Descriptors replaced by weighted sums of their neighbours."""

from collections.abc import Callable

import numpy as np

from landmark.error import UserError
from landmark.rerank.parallel import across_ranks
from landmark.rerank.retrieval import Retrieval

Weights = Callable[[np.ndarray], np.ndarray]
_NEIGHBOUR_VALUES = 2**24  # of the neighbours in a block: 64 MB


def alpha_weights(alpha: float) -> Weights:
    """max(cosine, 0)^alpha; 0 weights all neighbours equally.

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
    """Sum each descriptor's neighbours, weighted, to unit length.

    The cosines are computed from the descriptors, so the ranking's scores may be of any kind.

    Args:
        descriptors: (B, D), unit rows.
        gallery: (N, D), unit rows; may be memory-mapped.
        rows: Neighbours of each descriptor in the gallery, (B, n), nearest first; -1 is none.
        weights: Maps the cosines (B, n) of neighbours to their weights (B, n).
        include: Add the descriptor itself, with weight 1.

    Returns:
        (B, D) float32. A sum of length 0 leaves the descriptor as it is.

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
    """How many descriptors to expand together by n neighbours each."""
    return _NEIGHBOUR_VALUES // (n * gallery.shape[1])


def descriptors_of(gallery: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Descriptors (B, n, D) float32 of gallery rows (B, n); those of any row at -1."""
    flat = np.asarray(gallery[np.maximum(rows, 0).ravel()], np.float32)
    return flat.reshape(*rows.shape, gallery.shape[1])


def expanded_search(retrieval: Retrieval, name: str, n: int, weights: Weights) -> Retrieval:
    """Search again for each query with its n best added; queries, rows and scores are new.

    Args:
        retrieval: The ranking to expand with.
        name: The re-ranker's, for error messages.
        n: Results added.
        weights: Their weights by their cosines.

    Raises:
        UserError: The ranking is shorter than `n`, though the gallery is not.
    """
    kept = retrieval.rows.shape[1]
    if kept < min(n, len(retrieval.gallery)):
        raise UserError(
            f"rerank.{name}.n={n} looks further than the k={kept} results of a query. "
            f"Pass k={n} or more, or rerank.{name}.n={kept}."
        )

    def expanded(queries: slice) -> tuple[np.ndarray]:
        own, nearest = retrieval.query[queries], retrieval.rows[queries, :n]
        return (expand(own, retrieval.gallery, nearest, weights, include=True),)

    block_size = expansion_block(retrieval.gallery, n)
    (query,) = across_ranks(len(retrieval.query), expanded, block_size)
    return retrieval.searched(query=query)

"""Descriptors replaced by weighted sums of their neighbours."""

from collections.abc import Callable

import numpy as np

from landmark.error import UserError
from landmark.rerank.retrieval import Retrieval

Weights = Callable[[np.ndarray], np.ndarray]
_NEIGHBOUR_VALUES = 2**24  # values of neighbours held at once: 64 MB


def alpha_weights(alpha: float) -> Weights:
    """max(cosine, 0)^alpha; 0 counts every neighbour alike."""
    return lambda cosines: np.maximum(cosines, 0) ** np.float32(alpha)


def expand(
    descriptors: np.ndarray,
    gallery: np.ndarray,
    rows: np.ndarray,
    weights: Weights,
    include: bool,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Sum each descriptor's neighbours, weighted; make unit length.

    The cosines are computed from the descriptors, so the ranking's scores may be of any kind.

    Args:
        descriptors: (B, D), unit rows.
        gallery: (N, D), unit rows; may be memory-mapped.
        rows: Neighbours of each descriptor in the gallery, (B, n), nearest first; -1 is none.
        weights: Gives the weights (b, n) of neighbours with the cosines (b, n).
        include: Add the descriptor itself, with weight 1.
        out: Where to write the result.

    Returns:
        (B, D), float32 or of `out`'s dtype. A sum of length 0 leaves the descriptor as it is.
    """
    if out is None:
        out = np.empty(descriptors.shape, np.float32)
    at_once = max(1, _NEIGHBOUR_VALUES // max(1, rows.shape[1] * gallery.shape[1]))
    for first in range(0, len(descriptors), at_once):
        part = slice(first, first + at_once)
        own = np.asarray(descriptors[part], np.float32)
        neighbours = taken(gallery, rows[part])  # (b, n, D)
        cosines = (neighbours @ own[:, :, None])[:, :, 0]
        shares = np.where(rows[part] >= 0, weights(cosines), 0)
        summed = (shares[:, None, :] @ neighbours)[:, 0]  # (b, D)
        if include:
            summed += own
        length = np.linalg.norm(summed, axis=1, keepdims=True)
        out[part] = np.where(length > 0, summed / np.where(length > 0, length, 1), own)
    return out


def taken(gallery: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Descriptors (B, n, D) float32 of gallery rows (B, n); of -1 those of any row."""
    flat = np.asarray(gallery[np.maximum(rows, 0).ravel()], np.float32)
    return flat.reshape(*rows.shape, gallery.shape[1])


def expanded_search(retrieval: Retrieval, name: str, n: int, weights: Weights) -> Retrieval:
    """Search again for each query with its n best added; queries, rows and scores are new.

    Args:
        retrieval: What was found.
        name: The re-ranker's, for its mistakes.
        n: Results added.
        weights: Their weights by their cosines.

    Raises:
        UserError: The ranking is shorter than `n`, though the gallery is not.
    """
    kept = retrieval.rows.shape[1]
    if kept < min(n, len(retrieval.gallery)):
        raise UserError(
            f"rerank.{name}.n={n} looks further than the k={kept} results kept: "
            f"choose k={n} or more"
        )
    nearest = retrieval.rows[:, :n]
    query = expand(retrieval.query, retrieval.gallery, nearest, weights, include=True)
    return retrieval.searched(query=query)

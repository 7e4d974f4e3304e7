"""Descriptors replaced by weighted sums of their neighbours."""

import numpy as np

_NEIGHBOUR_VALUES = 2**24  # values of neighbours held at once: 64 MB


def expand(
    descriptors: np.ndarray,
    gallery: np.ndarray,
    rows: np.ndarray,
    alpha: float,
    include: bool,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Sum each descriptor's neighbours x with weight max(cosine, 0)^alpha; make unit length.

    The cosines are computed from the descriptors, so the ranking's scores may be of any kind.

    Args:
        descriptors: (B, D), unit rows.
        gallery: (N, D), unit rows; may be memory-mapped.
        rows: Neighbours of each descriptor in the gallery, (B, n); -1 is none.
        alpha: Exponent of the weights; 0 counts every neighbour alike.
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
        neighbours = np.asarray(gallery[np.maximum(rows[part], 0)], np.float32)  # (b, n, D)
        cosines = np.einsum("bd,bnd->bn", own, neighbours)
        weights = np.where(rows[part] >= 0, np.maximum(cosines, 0) ** alpha, 0)
        summed = (weights[:, None, :] @ neighbours)[:, 0]  # (b, D)
        if include:
            summed += own
        length = np.linalg.norm(summed, axis=1, keepdims=True)
        out[part] = np.where(length > 0, summed / np.where(length > 0, length, 1), own)
    return out

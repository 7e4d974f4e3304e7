"""Similarity of photos to distractors, by which scores are lowered."""

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.search.blocks import Vectors
from landmark.search.index import Index

_BLOCK_ROWS = 65536


def mean_similarity(
    photos: Vectors,
    index: Index,
    n: int,
    rows: np.ndarray | None = None,
    own_rows: np.ndarray | None = None,
) -> np.ndarray:
    """Return the mean cosine of each photo with its n nearest distractors.

    Args:
        photos: (N, D), unit rows; may be memory-mapped. Blocks of them are read.
        index: Index of the distractors; of fewer than n, all count.
        n: Number of distractors.
        rows: (R,) rows of `photos`. Defaults to all.
        own_rows: (R,) row of each photo itself among the distractors, which does not count; -1 for
            none. Defaults to none.

    Returns:
        (R,) float32; 0 for a photo without any distractor but itself.

    Example:
        >>> from landmark.search import Flat
        >>> index = Flat().build(np.eye(2, dtype=np.float32))
        >>> mean = mean_similarity(np.array([[0.6, 0.8]], np.float32), index, n=2)
        >>> f"{mean[0]:.3f}"
        '0.700'
    """
    count = len(photos) if rows is None else len(rows)
    n = min(n, len(index.gallery))
    means = np.empty(count, np.float32)
    for block in row_blocks(count, _BLOCK_ROWS):
        part = photos[block] if rows is None else photos[rows[block]]
        own = None if own_rows is None else own_rows[block]
        found, cosines = index.search_others(part, n, own)
        is_found = found >= 0
        totals = np.where(is_found, cosines, 0).sum(axis=1, dtype=np.float64)
        means[block] = totals / np.maximum(is_found.sum(axis=1), 1)
    return means

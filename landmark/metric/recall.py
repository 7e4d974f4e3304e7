"""Recall at k, as place recognition and metric learning report it."""

import numpy as np
from numpy.typing import NDArray


def recall_at_k(hits: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Return 1 for each query with a hit among its first `k` results, else 0.

    The mean over the queries is recall@k.

    Args:
        hits: Whether the result at each position is relevant, (Q, K).
        k: Number of results that count; positions beyond K are misses.

    Returns:
        (Q,).

    Source:
        Arandjelović et al., NetVLAD, CVPR 2016, section 5.1.

    Example:
        >>> recall_at_k(np.array([[False, True], [False, False]]), k=2).tolist()
        [1.0, 0.0]
    """
    first = np.asarray(hits, bool)[:, :k]
    return np.any(first, axis=1).astype(np.float64) if first.size else np.zeros(len(first))

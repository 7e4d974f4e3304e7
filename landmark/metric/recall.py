"""Recall at k, as the metric-learning literature counts it."""

import numpy as np
from numpy.typing import NDArray


def recall_at_k(hits: NDArray[np.bool_], k: int) -> float:
    """Fraction of the queries with a hit among their first `k` results.

    Args:
        hits: (Q, K) whether the result at that place is relevant, K ≥ k or all results there are.
        k: results that count.

    Source:
        Jégou et al., Product Quantization for Nearest Neighbor Search, 2011, section V.
    """
    first = np.asarray(hits, bool)[:, :k]
    return float(first.any(axis=1).mean()) if len(first) else 0.0


def found_at_k(
    hits: NDArray[np.bool_], relevant: NDArray[np.integer], k: int
) -> NDArray[np.float64]:
    """Fraction of each query's relevant photos that are among its first `k` results.

    Returns:
        (Q,), NaN where nothing is relevant.
    """
    found = np.asarray(hits, bool)[:, :k].sum(axis=1).astype(np.float64)
    total = np.asarray(relevant, np.float64)
    return np.divide(found, total, out=np.full(len(found), np.nan), where=total > 0)

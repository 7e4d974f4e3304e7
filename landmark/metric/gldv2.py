"""The official metrics of the Google Landmarks challenges.

Source: Weyand et al., Google Landmarks Dataset v2, CVPR 2020, section 4, and the organisers'
published evaluation code, whose treatment of duplicates, ties and missing predictions is kept.
"""

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]


def average_precision_at_k(
    hits: Hits, relevant: NDArray[np.integer], k: int = 100
) -> NDArray[np.float64]:
    """Average precision of each query's first `k` results.

    Args:
        hits: (Q, K) whether the result at that place is relevant; a repeated result counts once,
            at its first place, and keeps its place.
        relevant: (Q,) photos of the gallery that are relevant.
        k: results that count.

    Returns:
        (Q,) the sum of the precisions at the hits over min(relevant, k); NaN where nothing is
        relevant.

    Example:
        >>> import numpy as np
        >>> average_precision_at_k(np.array([[True, False, True]]), np.array([2]))
        array([0.83333333])
    """
    first = np.asarray(hits, bool)[:, :k]
    places = np.arange(1, first.shape[1] + 1)
    total = (np.cumsum(first, axis=1) * first / places).sum(axis=1)
    possible = np.minimum(np.asarray(relevant), k).astype(np.float64)
    return np.divide(total, possible, out=np.full(len(total), np.nan), where=possible > 0)


def map_at_k(hits: Hits, relevant: NDArray[np.integer], k: int = 100) -> float:
    """Mean of `average_precision_at_k` over the queries with something relevant; 0 without any."""
    precisions = average_precision_at_k(hits, relevant, k)
    counted = ~np.isnan(precisions)
    return float(precisions[counted].mean()) if counted.any() else 0.0


def precision_at_k(hits: Hits, k: int) -> NDArray[np.float64]:
    """Fraction of each query's first `k` places that are hits, (Q,); missing results are misses."""
    return np.asarray(hits, bool)[:, :k].sum(axis=1) / k


def first_hit_position(hits: Hits, k: int = 100) -> NDArray[np.int64]:
    """Place of each query's first hit, from 1; k + 1 where there is none in the first `k`."""
    first = np.asarray(hits, bool)[:, :k]
    if first.shape[1] == 0:
        return np.full(len(first), k + 1)
    return np.where(first.any(axis=1), first.argmax(axis=1) + 1, k + 1)


def micro_ap(scores: NDArray[np.floating], correct: NDArray[np.bool_], positives: int) -> float:
    """Micro average precision of recognition, also called GAP, global average precision.

    Args:
        scores: (P,) confidence of each prediction made; of equal ones the earlier counts first.
            The challenge puts equal ones in the order of their photos' ids.
        correct: (P,) whether the predicted landmark is one of the photo's.
        positives: photos that show a landmark, predicted or not.

    Returns:
        The sum over the correct predictions of the precision among all predictions with no lower
        place, over `positives`; 0 where there is no positive.

    Example:
        >>> import numpy as np
        >>> micro_ap(np.array([0.9, 0.5, 0.4]), np.array([True, False, True]), positives=2)
        0.8333333333333333
    """
    if positives == 0:
        return 0.0
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ordered = np.asarray(correct, bool)[order]
    places = np.arange(1, len(ordered) + 1)
    return float((np.cumsum(ordered) * ordered / places).sum() / positives)


def top_1(correct: NDArray[np.bool_], positives: int) -> float:
    """Fraction of the photos that show a landmark whose prediction names it."""
    return float(np.asarray(correct, bool).sum() / positives) if positives else 0.0

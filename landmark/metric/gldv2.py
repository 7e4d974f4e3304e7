"""The official metrics of the Google Landmarks challenges.

Duplicates, ties and missing predictions are treated as in the organisers' evaluation code.

Source:
    Weyand et al., Google Landmarks Dataset v2, CVPR 2020, section 4.
"""

import numpy as np
from numpy.typing import NDArray

from landmark.metric.relevance import query_blocks

Hits = NDArray[np.bool_]


def average_precision_at_k(
    hits: Hits, relevant: NDArray[np.integer], k: int = 100
) -> NDArray[np.float64]:
    """Compute the average precision of each query's first `k` results.

    Args:
        hits: Whether the result at each position is relevant, (Q, K). A repeated result counts
            once, at its first position (see `landmark.metric.relevance`).
        relevant: Number of relevant gallery images of each query, (Q,).
        k: Number of results that count.

    Returns:
        Sum of the precisions at the hits, divided by min(relevant, k), (Q,); NaN for queries
        without a relevant image.

    Example:
        >>> hits = np.array([[True, False, True], [False, False, False]])
        >>> average_precision_at_k(hits, np.array([2, 0])).round(4).tolist()
        [0.8333, nan]
    """
    first = np.asarray(hits, bool)[:, :k]
    total = np.zeros(len(first))
    for block in query_blocks(first):
        query, place = np.nonzero(first[block])  # only hits, which are few among the results
        counts = np.bincount(query, minlength=len(total[block]))
        number = np.arange(1, len(query) + 1) - (np.cumsum(counts) - counts)[query]
        total[block] = np.bincount(query, number / (place + 1), minlength=len(counts))
    possible = np.minimum(np.asarray(relevant), k).astype(np.float64)
    return np.divide(total, possible, out=np.full(len(total), np.nan), where=possible > 0)


def map_at_k(hits: Hits, relevant: NDArray[np.integer], k: int = 100) -> float:
    """Compute the mean average precision over the queries that have a relevant image.

    Args:
        hits: As in `average_precision_at_k`, (Q, K).
        relevant: Number of relevant gallery images of each query, (Q,).
        k: Number of results that count.

    Returns:
        The mean; 0 if no query has a relevant image.

    Example:
        >>> hits = np.array([[True, False, True], [False, True, False]])
        >>> round(map_at_k(hits, np.array([2, 1])), 4)
        0.6667
    """
    precisions = average_precision_at_k(hits, relevant, k)
    counted = ~np.isnan(precisions)
    return float(precisions[counted].mean()) if counted.any() else 0.0


def precision_at_k(hits: Hits, k: int) -> NDArray[np.float64]:
    """Compute the fraction of each query's first `k` positions that are hits.

    Args:
        hits: As in `average_precision_at_k`, (Q, K).
        k: Number of positions; those beyond K are misses.

    Returns:
        Precisions, (Q,).

    Example:
        >>> precision_at_k(np.array([[True, False, True]]), k=4).tolist()
        [0.5]
    """
    return np.asarray(hits, bool)[:, :k].sum(axis=1) / k


def first_hit_position(hits: Hits, k: int = 100) -> NDArray[np.int64]:
    """Return the position of each query's first hit.

    Args:
        hits: As in `average_precision_at_k`, (Q, K).
        k: Number of results that count.

    Returns:
        Positions from 1, (Q,); k + 1 for queries without a hit among the first `k` results.

    Example:
        >>> first_hit_position(np.array([[False, True], [False, False]])).tolist()
        [2, 101]
    """
    first = np.asarray(hits, bool)[:, :k]
    if first.shape[1] == 0:
        return np.full(len(first), k + 1)
    return np.where(first.any(axis=1), first.argmax(axis=1) + 1, k + 1)


def micro_ap(scores: NDArray[np.floating], correct: NDArray[np.bool_], positives: int) -> float:
    """Compute the micro average precision of recognition, also called GAP.

    Args:
        scores: Confidence of each prediction, (P,). Equal scores keep their order; the challenge
            orders them by image id.
        correct: Whether the predicted landmark is one of the image's landmarks, (P,).
        positives: Number of images that show a landmark, with or without a prediction.

    Returns:
        Sum of the precisions at the correct predictions, ordered by score, divided by
        `positives`; 0 without positives.

    Example:
        >>> scores, correct = np.array([0.9, 0.5, 0.4]), np.array([True, False, True])
        >>> round(micro_ap(scores, correct, positives=2), 4)
        0.8333
    """
    if positives == 0:
        return 0.0
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ordered = np.asarray(correct, bool)[order]
    positions = np.arange(1, len(ordered) + 1)
    return float((np.cumsum(ordered) * ordered / positions).sum() / positives)


def top_1(correct: NDArray[np.bool_], positives: int) -> float:
    """Compute the top-1 accuracy of recognition.

    Args:
        correct: Whether the predicted landmark is one of the image's landmarks, (P,).
        positives: Number of images that show a landmark, with or without a prediction.

    Returns:
        Fraction of the positives with a correct prediction; 0 without positives.

    Example:
        >>> top_1(np.array([True, False, True]), positives=4)
        0.5
    """
    return float(np.asarray(correct, bool).sum() / positives) if positives else 0.0

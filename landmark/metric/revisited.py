"""The easy, medium and hard protocols of ROxford and RParis.

As in the authors' evaluation code, junk is removed from the ranking, and the area under the
precision-recall curve is computed by the trapezoidal rule.

Source:
    Radenović et al., Revisiting Oxford and Paris, CVPR 2018, section 4.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from landmark.metric.relevance import distinct_rows

# Protocol → (positive lists, junk lists).
PROTOCOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_BITS = {"easy": 1, "hard": 2, "junk": 4}


def evaluate(
    rows: NDArray[np.integer],
    ground_truth: Sequence[Mapping[str, ArrayLike]],
    precision_at: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, Any]]:
    """Compute mean average precision and mean precision at k under the three protocols.

    Args:
        rows: Gallery rows, best first, (Q, K); -1 pads. A positive that is not ranked is a miss,
            and a repeated one is a hit only at its first position.
        ground_truth: The `easy`, `hard` and `junk` gallery rows of each query.
        precision_at: Values of k for the mean precision at k.

    Returns:
        For `easy`, `medium` and `hard`: `map` (mean over the queries with positives; 0 without
        any), `average_precision` ((Q,), NaN for a query without positives) and `mp_at_<k>`.

    Raises:
        ValueError: The numbers of rankings and queries differ, or the ground truth lists something
            else than rows.

    Example:
        >>> truth = [{"easy": [0], "hard": [2], "junk": [1]}]
        >>> result = evaluate(np.array([[1, 0, 3, 2]]), truth, precision_at=[1])
        >>> {name: round(metrics["map"], 4) for name, metrics in result.items()}
        {'easy': 1.0, 'medium': 0.7917, 'hard': 0.25}
        >>> result["medium"]["mp_at_1"]
        1.0
    """
    rows = np.asarray(rows)
    if len(rows) != len(ground_truth):
        raise ValueError(f"{len(rows)} rankings for {len(ground_truth)} queries")
    average_precisions = {name: np.full(len(rows), np.nan) for name in PROTOCOLS}
    precisions_at = {name: np.full((len(rows), len(precision_at)), np.nan) for name in PROTOCOLS}
    is_padded = bool(rows.size) and int(rows.min()) < 0
    lists_of_row = np.zeros(1 + _highest_row(rows, ground_truth), np.int8)
    for query, lists in enumerate(ground_truth):
        ranking = rows[query][rows[query] >= 0] if is_padded else rows[query]
        for protocol, positives in _positives(ranking, lists, lists_of_row).items():
            if positives.total:
                average_precisions[protocol][query] = trapezoid_average_precision(*positives)
                precisions_at[protocol][query] = [
                    _precision_at(positives.places, k) for k in precision_at
                ]
    result = {}
    for protocol in PROTOCOLS:
        average_precision = average_precisions[protocol]
        counted = ~np.isnan(average_precision)
        if counted.any():
            mean = float(average_precision[counted].mean())
            means = precisions_at[protocol][counted].mean(axis=0)
        else:
            mean, means = 0.0, np.zeros(len(precision_at))
        result[protocol] = {
            "map": mean,
            "average_precision": average_precision,
            **{f"mp_at_{k}": float(mp) for k, mp in zip(precision_at, means, strict=True)},
        }
    return result


def trapezoid_average_precision(places: NDArray[np.integer], positives: int) -> float:
    """Compute the area under the precision-recall curve by the trapezoidal rule.

    Args:
        places: Positions of the ranked positives, from 0, ascending.
        positives: Number of positives, ranked or not.

    Example:
        >>> round(trapezoid_average_precision(np.array([0, 2]), positives=2), 4)
        0.7917
    """
    hits = np.arange(len(places))
    before = np.divide(hits, places, out=np.ones(len(places)), where=places > 0)
    after = (hits + 1) / (places + 1)
    return float((before + after).sum() / (2 * positives))


class _Positives(NamedTuple):
    """Positions of the ranked positives, from 0, with junk removed; number of all positives."""

    places: NDArray[np.int64]
    total: int


def _positives(
    ranking: NDArray[np.integer], truth: Mapping[str, ArrayLike], lists_of_row: NDArray[np.int8]
) -> dict[str, _Positives]:
    """Return the positives of one query under each protocol.

    Args:
        ranking: Gallery rows, best first.
        truth: The query's `easy`, `hard` and `junk` rows.
        lists_of_row: Buffer of zeros, one per gallery row; zeros again on return.
    """
    lists = {name: distinct_rows(truth[name]) for name in _BITS}
    for name, rows in lists.items():
        lists_of_row[rows] |= _BITS[name]
    listed = np.flatnonzero(lists_of_row[ranking])  # few, and all that the protocols need
    bits = lists_of_row[ranking[listed]]
    _, first = np.unique(ranking[listed], return_index=True)
    is_first = np.isin(np.arange(len(listed)), first)
    for rows in lists.values():
        lists_of_row[rows] = 0
    result = {}
    for protocol, (positive_lists, junk_lists) in PROTOCOLS.items():
        positive = (bits & sum(_BITS[name] for name in positive_lists)) != 0
        # A photo in both lists is not junk: the published evaluation would count it twice.
        junk = ((bits & sum(_BITS[name] for name in junk_lists)) != 0) & ~positive
        places = (listed - np.cumsum(junk))[positive & is_first]
        total = len(np.unique(np.concatenate([lists[name] for name in positive_lists])))
        result[protocol] = _Positives(places, total)
    return result


def _highest_row(rows: NDArray[np.integer], ground_truth: Sequence[Mapping[str, ArrayLike]]) -> int:
    listed = (distinct_rows(lists[name]).max(initial=0) for lists in ground_truth for name in _BITS)
    return max(int(rows.max(initial=0)), *map(int, listed), 0)


def _precision_at(places: NDArray[np.int64], k: int) -> float:
    """Return the precision at `k`, or at the last ranked positive if that comes earlier."""
    if len(places) == 0:
        return 0.0
    last = min(int(places.max()) + 1, k)
    return float((places < last).sum() / last)

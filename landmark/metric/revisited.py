"""The easy, medium and hard protocols of ROxford and RParis.

Source: Radenović et al., Revisiting Oxford and Paris, CVPR 2018, section 4, with the authors'
published evaluation: precision interpolated as a trapezoid, junk taken out of the ranking.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

PROTOCOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_POSITIVE, _JUNK = 1, 2


def evaluate(
    rows: NDArray[np.integer],
    ground_truth: Sequence[Mapping[str, ArrayLike]],
    precision_at: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, Any]]:
    """Mean average precision and precisions under the three protocols.

    Args:
        rows: (Q, K) gallery rows, best first; -1 pads. Photos that are not ranked are not found.
        ground_truth: for each query its gallery rows that are `easy`, `hard` and `junk`.
        precision_at: places at which the mean precision is counted.

    Returns:
        For `easy`, `medium` and `hard`: `map` (the queries with positives), `average_precision`
        ((Q,), NaN for a query without positives) and `mp_at_<k>` for each k.

    Raises:
        ValueError: as many rankings as queries are needed.
    """
    rows = np.asarray(rows)
    if len(rows) != len(ground_truth):
        raise ValueError(f"{len(rows)} rankings for {len(ground_truth)} queries")
    result = {}
    for protocol, (positive_kinds, junk_kinds) in PROTOCOLS.items():
        precisions = np.full(len(rows), np.nan)
        at = np.full((len(rows), len(precision_at)), np.nan)
        for query, truth in enumerate(ground_truth):
            positives = _rows_of(truth, positive_kinds)
            if len(positives) == 0:
                continue
            places = _places(rows[query], positives, _rows_of(truth, junk_kinds))
            precisions[query] = trapezoid_average_precision(places, len(positives))
            at[query] = [_precision_at(places, k) for k in precision_at]
        counted = ~np.isnan(precisions)
        means = at[counted].mean(axis=0) if counted.any() else np.zeros(len(precision_at))
        result[protocol] = {
            "map": float(precisions[counted].mean()) if counted.any() else 0.0,
            "average_precision": precisions,
            **{f"mp_at_{k}": float(mean) for k, mean in zip(precision_at, means, strict=True)},
        }
    return result


def trapezoid_average_precision(places: NDArray[np.integer], positives: int) -> float:
    """Area under the precision-recall curve with straight lines between its points.

    Args:
        places: places of the positives found, from 0, ascending.
        positives: how many there are to find.

    Example:
        >>> import numpy as np
        >>> trapezoid_average_precision(np.array([0, 2]), positives=2)
        0.7916666666666666
    """
    found = np.arange(len(places))
    before = np.divide(found, places, out=np.ones(len(places)), where=places > 0)
    after = (found + 1) / (places + 1)
    return float((before + after).sum() / (2 * positives))


def _rows_of(truth: Mapping[str, ArrayLike], kinds: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([np.asarray(truth[kind], np.int64) for kind in kinds]))


def _places(
    ranking: NDArray[np.integer], positives: NDArray[np.int64], junk: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Places of the positives, from 0, in the ranking without its junk."""
    ranking = ranking[ranking >= 0]
    size = 1 + max(ranking.max(initial=0), positives.max(initial=0), junk.max(initial=0))
    kind = np.zeros(size, np.int8)
    # A photo in both lists is no junk: the published evaluation would count it twice.
    kind[junk] = _JUNK
    kind[positives] = _POSITIVE
    kinds = kind[ranking]
    found = np.flatnonzero(kinds == _POSITIVE)
    return found - np.searchsorted(np.flatnonzero(kinds == _JUNK), found)


def _precision_at(places: NDArray[np.int64], k: int) -> float:
    """Precision at `k`, or at the last positive found where that comes earlier."""
    if len(places) == 0:
        return 0.0
    last = min(int(places.max()) + 1, k)
    return float((places < last).sum() / last)

"""The easy, medium and hard protocols of ROxford and RParis.

Source: Radenović et al., Revisiting Oxford and Paris, CVPR 2018, section 4, with the authors'
published evaluation: precision interpolated as a trapezoid, junk taken out of the ranking.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    precisions = {name: np.full(len(rows), np.nan) for name in PROTOCOLS}
    at = {name: np.full((len(rows), len(precision_at)), np.nan) for name in PROTOCOLS}
    padded = bool(rows.size) and int(rows.min()) < 0
    kind = np.zeros(1 + _highest_row(rows, ground_truth), np.int8)
    for query, truth in enumerate(ground_truth):
        ranking = rows[query][rows[query] >= 0] if padded else rows[query]
        for protocol, listed in _listed(ranking, truth, kind).items():
            if listed.positives:
                precisions[protocol][query] = trapezoid_average_precision(
                    listed.places, listed.positives
                )
                at[protocol][query] = [_precision_at(listed.places, k) for k in precision_at]
    result = {}
    for protocol in PROTOCOLS:
        counted = ~np.isnan(precisions[protocol])
        any_ = counted.any()
        means = at[protocol][counted].mean(axis=0) if any_ else np.zeros(len(precision_at))
        result[protocol] = {
            "map": float(precisions[protocol][counted].mean()) if any_ else 0.0,
            "average_precision": precisions[protocol],
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


class _Listed(NamedTuple):
    """Places of the positives found, from 0, in the ranking without its junk; and all there are."""

    places: NDArray[np.int64]
    positives: int


def _listed(
    ranking: NDArray[np.integer], truth: Mapping[str, ArrayLike], kind: NDArray[np.int8]
) -> dict[str, _Listed]:
    """The positives of one query under each protocol.

    Args:
        ranking: rows of the gallery, best first.
        truth: the query's `easy`, `hard` and `junk` rows.
        kind: 0 for each row of the gallery, left as it is found.
    """
    lists = {name: np.unique(np.asarray(truth[name], np.int64)) for name in _BITS}
    for name, rows in lists.items():
        kind[rows] |= _BITS[name]
    found = np.flatnonzero(kind[ranking])  # few: the protocols look at these alone
    kinds = kind[ranking[found]]
    for rows in lists.values():
        kind[rows] = 0
    result = {}
    for protocol, (positive_kinds, junk_kinds) in PROTOCOLS.items():
        positive = (kinds & sum(_BITS[name] for name in positive_kinds)) != 0
        # A photo in both lists is no junk: the published evaluation would count it twice.
        junk = ((kinds & sum(_BITS[name] for name in junk_kinds)) != 0) & ~positive
        places = found[positive] - np.cumsum(junk)[positive]
        total = len(np.unique(np.concatenate([lists[name] for name in positive_kinds])))
        result[protocol] = _Listed(places, total)
    return result


def _highest_row(rows: NDArray[np.integer], ground_truth: Sequence[Mapping[str, ArrayLike]]) -> int:
    listed = (np.max(truth[name], initial=0) for truth in ground_truth for name in _BITS)
    return max(int(rows.max(initial=0)), *map(int, listed), 0)


def _precision_at(places: NDArray[np.int64], k: int) -> float:
    """Precision at `k`, or at the last positive found where that comes earlier."""
    if len(places) == 0:
        return 0.0
    last = min(int(places.max()) + 1, k)
    return float((places < last).sum() / last)

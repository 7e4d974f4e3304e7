"""Rankings that a method left short, filled with what was found before."""

import numpy as np

_RESULTS_AT_ONCE = 2**20


def filled(
    rows: np.ndarray, scores: np.ndarray, former_rows: np.ndarray, former_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rankings with the photos of the former ones after them, in their former order.

    The scores of those photos fall along the ranking, below the method's, and mean no more.

    Args:
        rows: (Q, K) best first, -1 pads at the end.
        scores: (Q, K) falling, -inf at the pads.
        former_rows: (Q, K), -1 pads.
        former_scores: (Q, K).

    Returns:
        rows (Q, K) int32 and scores (Q, K) float32.
    """
    rows, scores = rows.astype(np.int32), scores.astype(np.float32)
    short = np.flatnonzero((rows < 0).any(axis=1))
    at_once = max(1, _RESULTS_AT_ONCE // max(1, rows.shape[1]))
    for first in range(0, len(short), at_once):
        part = short[first : first + at_once]
        rows[part], scores[part] = _filled(
            rows[part], scores[part], former_rows[part], former_scores[part]
        )
    return rows, scores


def _filled(
    rows: np.ndarray, scores: np.ndarray, former_rows: np.ndarray, former_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    new = (former_rows >= 0) & ~listed_in(former_rows, rows)
    found = rows >= 0
    lowest = np.where(found, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    highest = np.where(new, former_scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    below = np.where(np.isfinite(lowest), lowest - 1, 0)
    with np.errstate(invalid="ignore"):  # where nothing is new
        moved = np.where(new, former_scores - highest + below, -np.inf)
    order = np.argsort(
        np.concatenate([np.where(found, 0, 2), np.where(new, 1, 2)], axis=1), axis=1, kind="stable"
    )[:, : rows.shape[1]]
    candidates = np.concatenate([rows, np.where(new, former_rows, -1)], axis=1)
    values = np.concatenate([scores, moved], axis=1)
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(values, order, 1)


def listed_in(rows: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Which of a query's rows are in its list.

    Args:
        rows: (Q, J), -1 is none.
        listed: (Q, K), -1 is none.

    Returns:
        (Q, J) bool; what it says of -1 has no meaning.
    """
    beyond = int(max(rows.max(initial=0), listed.max(initial=0))) + 1
    shift = np.arange(len(rows), dtype=np.int64)[:, None] * (beyond + 1)
    # Every query's rows have numbers of their own, so that one search looks all of them up.
    numbers = np.sort(np.where(listed < 0, beyond, listed) + shift, axis=1).ravel()
    wanted = rows + shift
    return numbers[np.minimum(np.searchsorted(numbers, wanted), len(numbers) - 1)] == wanted

"""Which queries a reader is shown."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Choice:
    """Rows of the queries to show.

    Attributes:
        worst: (W,) lowest average precision first; where it is not known for any query, lowest
            best score first.
        best: (B,) highest average precision first, none that is among the worst.
        answerless: how many queries nothing in the gallery answers: they are not shown.
        by_precision: whether the average precision chose.
    """

    worst: NDArray[np.intp]
    best: NDArray[np.intp]
    answerless: int
    by_precision: bool


def choose(
    precision: NDArray[np.floating] | None,
    scores: NDArray[np.floating],
    worst: int = 30,
    best: int = 5,
) -> Choice:
    """Chooses among Q queries by what the last step found.

    Args:
        precision: (Q,) average precision, NaN where nothing answers; None: not known.
        scores: (Q, K) of the results, best first.
        worst: how many of the worst.
        best: how many of the best.
    """
    if precision is None or np.isnan(precision).all():
        top = scores[:, 0] if scores.shape[1] else np.zeros(len(scores))
        order = np.argsort(top, kind="stable")
        return Choice(order[:worst], order[:0], 0, by_precision=False)
    order = np.argsort(precision, kind="stable")
    answerable = order[~np.isnan(precision[order])]
    rest = answerable[worst:]
    # Of equal ones the earlier query comes first at this end too.
    rest = rest[np.lexsort((rest, -precision[rest]))]
    answerless = len(precision) - len(answerable)
    return Choice(answerable[:worst], rest[:best], answerless, by_precision=True)

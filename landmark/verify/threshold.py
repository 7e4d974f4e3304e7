"""Thresholds of verification, from scores of pairs of photos of different places."""

import math
from fractions import Fraction
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from landmark.error import UserError
from landmark.settings import checked

FalseRate = Annotated[float, Field(gt=0, lt=1)]


@checked
def threshold(null_scores: ArrayLike, false_rate: FalseRate = 0.01) -> float:
    """Return the smallest score above which at most a share of the null pairs lies.

    A pair is verified if its score is greater than the threshold. Of n null pairs at most k =
    floor(false_rate * n) are verified, and fewer only where scores are equal. Of pairs of
    different places that were not among them, (k + 1) / (n + 1) are verified on average: with a
    rate of 0.01, 2.0 % for n = 100 and 1.1 % for n = 1,000.

    Args:
        null_scores: (n,) scores of pairs of photos of different places (see `null_pairs`).
        false_rate: Share of them that may be verified.

    Raises:
        UserError: There are fewer than 1 / false_rate null pairs, a score is not a number, or the
            rate is not between 0 and 1.

    Example:
        >>> threshold([3.0, 1.0, 7.0, 5.0], false_rate=0.25)
        5.0
        >>> threshold([3.0, 1.0, 7.0, 7.0], false_rate=0.25)
        7.0
    """
    scores = np.asarray(null_scores).ravel()
    rate = Fraction(str(false_rate))  # the decimal number: 0.29 * 100 is below 29 in binary
    needed = math.ceil(1 / rate)
    if len(scores) < needed:
        raise UserError(
            f"false_rate={false_rate:g} needs at least {needed:,} pairs of photos of different "
            f"places, but there are {len(scores):,}. Pass more photos, or a higher false_rate."
        )
    if np.isnan(scores).any():
        raise UserError("a score of a pair of different places is not a number. Verify it again.")
    allowed = math.floor(rate * len(scores))
    position = len(scores) - 1 - allowed
    return float(np.partition(scores, position)[position])

"""How sure a mean over queries is, and a change of it: bootstrap intervals."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_DRAWN_AT_ONCE = 1 << 22


class Interval(NamedTuple):
    """The mean of a sample and where it lies with the confidence asked for."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: ArrayLike, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of a mean (Efron and Tibshirani 1993, chapter 13).

    For the change between two rankings of the same queries give each query's change: the pairs
    are drawn together.

    Args:
        values: (Q,) of the queries; NaN for one that does not count.
        confidence: of the interval.
        resamples: samples of as many queries, drawn with replacement.
        seed: of the draws.

    Returns:
        mean, low, high; all 0 where no query counts.

    Example:
        >>> mean_interval([0.5, 0.5, 0.5])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    counted = np.asarray(values, np.float64)
    counted = counted[~np.isnan(counted)]
    if not len(counted):
        return Interval(0.0, 0.0, 0.0)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(1, _DRAWN_AT_ONCE // len(counted))
    for first in range(0, resamples, at_once):
        part = means[first : first + at_once]
        part[:] = counted[random.integers(0, len(counted), (len(part), len(counted)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(counted.mean()), float(low), float(high))

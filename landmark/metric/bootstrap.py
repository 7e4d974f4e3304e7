"""Bootstrap confidence intervals of a mean over queries."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

BLOCK_SIZE = 1 << 22  # values drawn per block


class Interval(NamedTuple):
    """The mean of a sample and its confidence interval.

    Example:
        >>> change, low, high = Interval(mean=0.02, low=-0.01, high=0.05)
        >>> low <= change <= high
        True
    """

    mean: float
    low: float
    high: float


def mean_interval(
    values: ArrayLike, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Compute the percentile bootstrap interval of a mean.

    To compare two rankings of the same queries, pass the difference for each query: the resampling
    is then paired.

    Args:
        values: One value per query, (Q,); NaN excludes a query.
        confidence: Level of the interval, between 0 and 1.
        resamples: Number of bootstrap samples of size Q, drawn with replacement.
        seed: Seed of the resampling.

    Returns:
        Mean, lower and upper bound; all 0 if every value is NaN.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Example:
        >>> mean_interval([0.5, 0.5, 0.5])
        Interval(mean=0.5, low=0.5, high=0.5)
        >>> mean, low, high = mean_interval([0.0, 0.25, 0.5, 0.75, 1.0, float("nan")])
        >>> mean, low < mean < high
        (0.5, True)
    """
    counted = np.asarray(values, np.float64)
    counted = counted[~np.isnan(counted)]
    if not len(counted):
        return Interval(0.0, 0.0, 0.0)
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    samples = max(1, BLOCK_SIZE // len(counted))
    for start in range(0, resamples, samples):
        block = means[start : start + samples]
        drawn = random.integers(0, len(counted), (len(block), len(counted)))
        block[:] = counted[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(counted.mean()), float(low), float(high))

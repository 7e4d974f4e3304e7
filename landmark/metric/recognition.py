"""Precision and recall of recognition as the threshold on the confidence varies."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ThresholdCurve(NamedTuple):
    """What each threshold keeps, from the highest threshold to the lowest.

    Attributes:
        thresholds: (T,) distinct scores, descending; a prediction is kept if its score is at least
            the threshold.
        kept: (T,) number of predictions that are kept.
        correct: (T,) number of these that are correct.
    """

    thresholds: NDArray[np.float64]
    kept: NDArray[np.int64]
    correct: NDArray[np.int64]

    @property
    def precisions(self) -> NDArray[np.float64]:
        """Share of the kept predictions that are correct, (T,)."""
        return self.correct / self.kept

    def recalls(self, positives: int) -> NDArray[np.float64]:
        """Return the share of the images with a landmark that are recognized, (T,).

        Args:
            positives: Number of images that show a landmark, with or without a prediction.
        """
        return self.correct / max(1, positives)


def threshold_curve(scores: NDArray[np.floating], correct: NDArray[np.bool_]) -> ThresholdCurve:
    """Count the predictions that each threshold keeps.

    Args:
        scores: (P,) score of each prediction.
        correct: (P,) whether it is correct.

    Example:
        >>> curve = threshold_curve(np.array([0.9, 0.5, 0.5]), np.array([True, False, True]))
        >>> curve.thresholds.tolist(), curve.precisions.round(3).tolist()
        ([0.9, 0.5], [1.0, 0.667])
        >>> curve.recalls(positives=4).tolist()
        [0.25, 0.5]
    """
    scores = np.asarray(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    is_last = np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)]
    hits = np.cumsum(np.asarray(correct, bool)[order])
    return ThresholdCurve(ordered[is_last], np.flatnonzero(is_last) + 1, hits[is_last])

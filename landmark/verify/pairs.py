"""Verify a table of pairs of photos."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmark.verify.features import Features
from landmark.verify.verifier import Verification

Verify = Callable[[Features, Features], Verification]


class PairScores(NamedTuple):
    """The evidence of P pairs.

    Attributes:
        scores: (P,) float32, higher means more surely the same place.
        inliers: (P,) int32.
    """

    scores: NDArray[np.float32]
    inliers: NDArray[np.int32]


def verify_pairs(
    verifier: Verify,
    a: Sequence[Features],
    b: Sequence[Features],
    pairs: NDArray[np.integer],
) -> PairScores:
    """Verify pairs of photos.

    Args:
        verifier: Scores two photos.
        a: Features of the first photos, by row.
        b: Features of the second photos, by row; may be `a`.
        pairs: (P, 2) rows of `a` and `b`.
    """
    scores = np.zeros(len(pairs), np.float32)
    inliers = np.zeros(len(pairs), np.int32)
    for number, (row_a, row_b) in enumerate(pairs.tolist()):
        result = verifier(a[row_a], b[row_b])
        scores[number], inliers[number] = result.score, result.inliers
    return PairScores(scores, inliers)

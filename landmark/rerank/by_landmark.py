"""Gallery photos listed by the landmark they were voted to show."""

import numpy as np

from landmark.rerank.voting import Votes


class ByLandmark:
    """Each landmark's gallery photos by falling vote, of equal ones the lower row first.

    One sort of the gallery, 16 bytes a photo; landmarks without photos cost nothing.

    Args:
        votes: Votes of the N gallery photos.
    """

    def __init__(self, votes: Votes) -> None:
        self._order = np.lexsort((-votes.scores, votes.landmarks)).astype(np.int32)
        self._landmarks = votes.landmarks[self._order]
        first = np.searchsorted(self._landmarks, self._landmarks, side="left")
        self._place = np.empty(len(self._order), np.int32)  # of a photo among its landmark's
        self._place[self._order] = np.arange(len(self._order)) - first

    def not_found(
        self, landmarks: np.ndarray, rows: np.ndarray, positive: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best photos of each query's landmark, and which of them its ranking lacks.

        A ranking of K rows never needs more than its landmark's K best: those it does not lack are
        among its positives.

        Args:
            landmarks: Landmark of each query, (Q,).
            rows: Rankings, (Q, K).
            positive: Where a ranking's photo has the query's landmark, (Q, K) bool.

        Returns:
            Gallery rows (Q, K) by falling vote, and (Q, K) bool: it exists and is not in `rows`.
        """
        kept = rows.shape[1]
        place = np.arange(kept)
        first, last = (
            np.searchsorted(self._landmarks, landmarks, side=side)[:, None]
            for side in ("left", "right")
        )
        lacking = first + place < last
        query, position = np.nonzero(positive)
        taken = self._place[rows[query, position]]
        near = taken < kept
        lacking[query[near], taken[near]] = False
        return self._order[np.minimum(first + place, len(self._order) - 1)], lacking

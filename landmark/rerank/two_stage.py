"""Two-stage re-ranking: photos of the query's landmark first, and more of them."""

from math import inf

import numpy as np

from landmark.error import UserError
from landmark.rerank.by_landmark import ByLandmark
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.setting import number, whole_number
from landmark.rerank.voting import Votes, soft_vote
from landmark.score.ground_truth import landmark_codes

_RESULTS_AT_ONCE = 2**20


class TwoStage:
    """Two-stage discriminative re-ranking, sort and insert (Yokoo et al. 2020, arXiv 2003.11211).

    Query and gallery photos get a landmark and a score from their k nearest train photos (see
    `soft_vote`). Sort: gallery photos of the query's landmark, the positives, come first, each part
    in its former order. Insert: gallery photos of the query's landmark that were not found, and
    whose score and the query's together exceed the threshold, come right after the positives, by
    falling score, of equal ones the lower row. The ranking keeps its length.

    The new scores keep the order and no other meaning: others have their former score, inserted
    ones are above them by their votes, positives above those.

    Args:
        k: Train photos that vote.
        threshold: Of the two scores together, to be inserted; none: no threshold.
        sort: Move the positives to the front. Without it inserted photos come after the last
            positive where it stands.
        insert: Insert positives that were not found.
        temperature: Of the votes' weights (see `vote`); none: the cosines.

    Raises:
        UserError: A setting is out of its range.
    """

    needs_train = True

    def __init__(
        self,
        k: int = 3,
        threshold: float | None = 0.6,
        sort: bool = True,
        insert: bool = True,
        temperature: float | None = None,
    ) -> None:
        self.k = whole_number("rerank.two_stage.k", k, 1)
        if threshold is not None:
            threshold = number("rerank.two_stage.threshold", threshold, -inf)
        if temperature is not None:
            temperature = number("rerank.two_stage.temperature", temperature, 0, above=True)
        self.threshold = threshold
        self.sort = sort
        self.insert = insert
        self.temperature = temperature

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Vote with the train photos, then sort and insert; rows and scores are new.

        Raises:
            UserError: The retrieval has no train photos, or none of known landmark.
        """
        if retrieval.train is None or retrieval.train_landmark_ids is None:
            raise UserError("rerank=two_stage needs photos of known landmarks: give train=STORE")
        landmarks = landmark_codes(retrieval.train_landmark_ids)
        if (landmarks < 0).all():
            raise UserError("rerank=two_stage: no photo of train=STORE has a landmark to vote for")
        query, gallery = (
            soft_vote(
                photos, retrieval.train, landmarks, self.k, retrieval.search, self.temperature
            )
            for photos in (retrieval.query, retrieval.gallery)
        )
        rows, scores = self.rerank(retrieval.rows, retrieval.scores, query, gallery)
        return retrieval.with_ranking(rows, scores)

    def rerank(
        self, rows: np.ndarray, scores: np.ndarray, query: Votes, gallery: Votes
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sort and insert with the votes given.

        Args:
            rows: (Q, K), best first, -1 pads.
            scores: (Q, K), falling, -inf at the pads.
            query: Votes of the Q queries.
            gallery: Votes of the N gallery photos.

        Returns:
            rows (Q, K) int32 and scores (Q, K) float32.
        """
        new_rows = np.empty(rows.shape, np.int32)
        new_scores = np.empty(rows.shape, np.float32)
        by_landmark = ByLandmark(gallery)
        at_once = max(1, _RESULTS_AT_ONCE // max(1, rows.shape[1]))
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            new_rows[part], new_scores[part] = self._rerank(
                rows[part], scores[part], query.of(part), gallery, by_landmark
            )
        return new_rows, new_scores

    def _rerank(
        self,
        rows: np.ndarray,
        scores: np.ndarray,
        query: Votes,
        gallery: Votes,
        by_landmark: ByLandmark,
    ) -> tuple[np.ndarray, np.ndarray]:
        found = rows >= 0
        known = query.landmarks[:, None] >= 0
        positive = (
            found & known & (gallery.landmarks[np.maximum(rows, 0)] == query.landmarks[:, None])
        )
        ahead = positive
        if not self.sort:  # all up to the last positive
            ahead = np.logical_or.accumulate(positive[:, ::-1], axis=1)[:, ::-1]
        new, inserted = by_landmark.not_found(query.landmarks, rows, positive)  # (Q, K) both
        votes = query.scores[:, None] + gallery.scores[new]
        inserted &= known & self.insert
        if self.threshold is not None:
            inserted &= votes > self.threshold

        part = np.concatenate(  # of the ranking: 0 ahead, 1 inserted, 2 other, 3 nothing; (Q, 2K)
            [np.where(ahead, 0, np.where(found, 2, 3)), np.where(inserted, 1, 3)], axis=1
        ).astype(np.uint8)
        order = np.argsort(part, axis=1, kind="stable")[:, : rows.shape[1]]
        candidates = np.concatenate(
            [np.where(found, rows, -1), np.where(inserted, new, -1)], axis=1
        )
        values = np.concatenate(_in_order(scores, found, ahead, votes, inserted), axis=1)
        return np.take_along_axis(candidates, order, 1), np.take_along_axis(values, order, 1)


def _in_order(
    scores: np.ndarray,
    found: np.ndarray,
    ahead: np.ndarray,
    votes: np.ndarray,
    inserted: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (Q, K) of the photos found and of those inserted that fall along the new ranking."""
    high = np.where(found, scores, -np.inf).max(axis=1, keepdims=True, initial=-1)
    low = np.where(found, scores, np.inf).min(axis=1, keepdims=True, initial=1)
    # Two votes sum to -2 ... 2: inserted photos get high + 1 ... high + 5, those ahead more.
    shifted = np.where(ahead, scores + (high - low) + 6, scores)
    return np.where(found, shifted, -np.inf), np.where(inserted, high + 3 + votes, -np.inf)

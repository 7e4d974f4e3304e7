"""Two-stage re-ranking: move photos of the query's landmark to the front, and insert more."""

from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from landmark.error import UserError
from landmark.rerank.parallel import across_ranks
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.voting import Votes, soft_vote
from landmark.score.ground_truth import landmark_codes
from landmark.settings import checked

_BLOCK_RESULTS = 2**20


class TwoStage:
    """Two-stage discriminative re-ranking, sort and insert (Yokoo et al. 2020, arXiv 2003.11211).

    The k nearest train photos vote for the landmark of each query and gallery photo, with a score
    (see `soft_vote`). Positives are gallery photos with the query's landmark. Sort: positives move
    to the front; both parts keep their order. Insert: positives that are not in the ranking, and
    whose score plus the query's exceeds the threshold, follow the ranked positives by descending
    score, ties by row. The ranking keeps its length.

    The new scores only express the order: negatives keep their score, inserted photos are scored
    above them by their votes, ranked positives above those.

    Args:
        k: Number of train photos that vote.
        threshold: Lower bound on the sum of the two scores for inserting. None means no bound.
        sort: Move ranked positives to the front. If false, inserted photos follow the last ranked
            positive.
        insert: Insert positives that are not in the ranking.
        temperature: Temperature of the vote weights (see `vote`). None weights by the cosines.

    Example:
        >>> from landmark.search import Flat
        >>> query, gallery = np.array([[0.8, 0.6]], np.float32), np.eye(2)
        >>> retrieval = Retrieval.from_search(
        ...     query, gallery.astype(np.float32), k=2, search=Flat(),
        ...     train=np.array([[0.6, 0.8], [0, 1], [1, 0]], np.float32),
        ...     train_landmark_ids=np.array(["bay", "bay", "arch"]),
        ... )
        >>> retrieval.rows.tolist(), TwoStage(k=1)(retrieval).rows.tolist()
        ([[0, 1]], [[1, 0]])
    """

    needs_train = True

    @checked
    def __init__(
        self,
        k: PositiveInt = 3,
        threshold: float | None = 0.6,
        sort: bool = True,
        insert: bool = True,
        temperature: Annotated[float, Field(ge=1e-4)] | None = None,
    ) -> None:
        self.k = k
        self.threshold = threshold
        self.sort = sort
        self.insert = insert
        self.temperature = temperature

    def __call__(self, retrieval: Retrieval) -> Retrieval:
        """Vote with the train photos, sort and insert; replaces rows and scores.

        Raises:
            UserError: The retrieval has no train photos, or no train photo has a landmark.
        """
        if retrieval.train_index is None or retrieval.train_landmark_ids is None:
            raise UserError("rerank=two_stage needs photos with landmarks. Pass train=STORE.")
        landmarks = landmark_codes(retrieval.train_landmark_ids)
        if (landmarks < 0).all():
            raise UserError(
                "rerank=two_stage: no photo of train=STORE has a landmark. Pass a train store "
                "with landmark ids."
            )
        query, gallery = (
            soft_vote(photos, retrieval.train_index, landmarks, self.k, self.temperature, own_rows)
            for photos, own_rows in (
                (retrieval.query, retrieval.own_train_rows),
                (retrieval.gallery, None),
            )
        )
        rows, scores = self.rerank(
            retrieval.rows, retrieval.scores, query, gallery, retrieval.own_rows
        )
        return retrieval.with_ranking(rows, scores)

    def rerank(
        self,
        rows: np.ndarray,
        scores: np.ndarray,
        query: Votes,
        gallery: Votes,
        own_rows: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sort and insert according to votes.

        Args:
            rows: (Q, K), best first, -1 pads.
            scores: (Q, K), descending, -inf at the pads.
            query: Votes for the Q queries.
            gallery: Votes for the N gallery photos.
            own_rows: (Q,) gallery row that is not inserted, the query's own photo; -1 for none.
                Defaults to none.

        Returns:
            Rows (Q, K) int32 and scores (Q, K) float32.
        """
        by_landmark = ByLandmark(gallery)

        def reranked(part: slice) -> tuple[np.ndarray, np.ndarray]:
            votes = Votes(query.landmarks[part], query.scores[part])
            own = None if own_rows is None else own_rows[part]
            new = self._rerank(rows[part], scores[part], votes, gallery, by_landmark, own)
            return new[0].astype(np.int32), new[1].astype(np.float32)

        block_size = _BLOCK_RESULTS // max(1, rows.shape[1])
        new_rows, new_scores = across_ranks(len(rows), reranked, block_size)
        return new_rows, new_scores

    def _rerank(
        self,
        rows: np.ndarray,
        scores: np.ndarray,
        query: Votes,
        gallery: Votes,
        by_landmark: "ByLandmark",
        own_rows: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        is_ranked = rows >= 0
        is_known = query.landmarks[:, None] >= 0
        same_landmark = gallery.landmarks[np.maximum(rows, 0)] == query.landmarks[:, None]
        positive = ahead = is_ranked & is_known & same_landmark
        if not self.sort:  # everything up to the last positive
            ahead = np.logical_or.accumulate(positive[:, ::-1], axis=1)[:, ::-1]
        new, inserted = by_landmark.missing(query.landmarks, rows, positive)  # (Q, K) both
        if own_rows is not None:
            inserted &= new != own_rows[:, None]
        votes = query.scores[:, None] + gallery.scores[new]
        inserted &= is_known & self.insert
        if self.threshold is not None:
            inserted &= votes > self.threshold

        group = np.concatenate(  # 0 ahead, 1 inserted, 2 other, 3 pad; (Q, 2K)
            [np.where(ahead, 0, np.where(is_ranked, 2, 3)), np.where(inserted, 1, 3)], axis=1
        ).astype(np.uint8)
        order = np.argsort(group, axis=1, kind="stable")[:, : rows.shape[1]]
        candidates = np.concatenate(
            [np.where(is_ranked, rows, -1), np.where(inserted, new, -1)], axis=1
        )
        values = np.concatenate(
            _descending_scores(scores, is_ranked, ahead, votes, inserted), axis=1
        )
        return np.take_along_axis(candidates, order, 1), np.take_along_axis(values, order, 1)


def _descending_scores(
    scores: np.ndarray,
    is_ranked: np.ndarray,
    ahead: np.ndarray,
    votes: np.ndarray,
    inserted: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (Q, K) of ranked and inserted photos that descend along the new ranking."""
    high = np.where(is_ranked, scores, -np.inf).max(axis=1, keepdims=True, initial=-1)
    low = np.where(is_ranked, scores, np.inf).min(axis=1, keepdims=True, initial=1)
    # Two votes sum to -2 … 2: inserted photos get high + 1 … high + 5, photos ahead of them more.
    shifted = np.where(ahead, scores + (high - low) + 6, scores)
    return np.where(is_ranked, shifted, -np.inf), np.where(inserted, high + 3 + votes, -np.inf)


class ByLandmark:
    """Gallery photos of each landmark by descending vote, ties by row; 16 bytes per photo.

    Args:
        votes: Votes for the N gallery photos.

    Example:
        >>> by_landmark = ByLandmark(Votes(np.array([5, 5, 7]), np.array([0.2, 0.9, 0.4])))
        >>> rows, positive = np.array([[1, 2]]), np.array([[True, False]])
        >>> [values.tolist() for values in by_landmark.missing(np.array([5]), rows, positive)]
        [[[1, 0]], [[False, True]]]
    """

    def __init__(self, votes: Votes) -> None:
        self._order = np.lexsort((-votes.scores, votes.landmarks)).astype(np.int32)
        self._landmarks = votes.landmarks[self._order]
        first = np.searchsorted(self._landmarks, self._landmarks, side="left")
        self._rank = np.empty(len(self._order), np.int32)  # of a photo within its landmark
        self._rank[self._order] = np.arange(len(self._order)) - first

    def missing(
        self, landmarks: np.ndarray, rows: np.ndarray, positive: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best K photos of each query's landmark, and whether the ranking lacks them.

        A ranking of K rows has room for no more.

        Args:
            landmarks: Landmark of each query, (Q,).
            rows: Rankings, (Q, K).
            positive: Whether a ranked photo has the query's landmark, (Q, K) bool.

        Returns:
            Gallery rows (Q, K) by descending vote, and (Q, K) bool: whether the entry exists and is
            not in `rows`.
        """
        length = rows.shape[1]
        ranks = np.arange(length)
        first, last = (
            np.searchsorted(self._landmarks, landmarks, side=side)[:, None]
            for side in ("left", "right")
        )
        missing = first + ranks < last
        query, position = np.nonzero(positive)
        present = self._rank[rows[query, position]]
        is_listed = present < length
        missing[query[is_listed], present[is_listed]] = False
        return self._order[np.minimum(first + ranks, len(self._order) - 1)], missing

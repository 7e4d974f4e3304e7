"""Vote over the nearest train photos for the landmark of each query."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt

from landmark.recognize.centres import centre_cosines
from landmark.recognize.suppression import mean_similarity
from landmark.recognize.votes import count_votes
from landmark.search.index import Index
from landmark.settings import checked

MOST_INLIERS = 70
CountInliers = Callable[[NDArray[np.integer]], NDArray[np.integer]]


@dataclass(frozen=True, eq=False)
class Predictions:
    """The winning landmark of each of Q queries, and who voted for it.

    Attributes:
        landmarks: (Q,) codes; -1 without a voter.
        scores: (Q,) float64, higher is more surely right; -inf without a voter.
        voters: (Q, k) int32 train rows, largest weight first; -1 pads.
        weights: (Q, k) float64 weight of each voter; 0 at the pads.
        cosines: (Q, k) float32 cosine with each voter.
        nearest: (Q,) code of the nearest train photo with a landmark; -1 for none.
        nearest_cosines: (Q,) cosine with it; -inf for none.
        inliers: (Q, k) inliers of each voter. None if photos were not verified.
    """

    landmarks: NDArray[np.int64]
    scores: NDArray[np.float64]
    voters: NDArray[np.int32]
    weights: NDArray[np.float64]
    cosines: NDArray[np.float32]
    nearest: NDArray[np.int64]
    nearest_cosines: NDArray[np.float32]
    inliers: NDArray[np.int32] | None = None


class Recognizer:
    """Recognize landmarks by the votes of the nearest train photos.

    The k best of a query's nearest train photos vote for their landmarks. The weight of train photo
    t for query q is similarity(q, t) + inliers · min(n, 70) / 70 + centres · cosine of q with the
    class centre. The landmark with the most votes wins; its score is its votes − rival · those of
    the second (see `count_votes`).

    With distractors, photos that show no landmark, the mean cosine of t with its nearest
    `train_distractors` of them is subtracted from the similarity, and that of q with its nearest
    `query_distractors` from the score: photos that resemble anything, such as food, faces
    and skies, lose that way.

    The defaults are chosen so that the vote is at least as good as the nearest train photo on plain
    and on whitened descriptors. The solution of 2019 is k=3, temperature=None, rival=0, demote=30;
    that of 2020 the same with distractors, without demotion.

    Args:
        k: Number of voters.
        candidates: Nearest train photos among which the voters are chosen.
        temperature: Of the votes. Larger values let many voters outvote the nearest; whitened
            descriptors, whose cosines are spread out, may want 0.1. None adds up the plain
            weights.
        rival: Weight of the second landmark's votes.
        verified: Best candidates that are verified where photos are verified; the others have no
            inliers.
        inliers: Weight of the inliers.
        centres: Weight of the class centres where they are known.
        train_distractors: Nearest distractors of a train photo.
        query_distractors: Nearest distractors of a query.
        demote: Landmarks that are predicted at least this often are distractors themselves: their
            predictions go below all others, the most frequent last. None demotes none. Choose it
            for a large set of queries whose landmarks are rare.

    Source:
        Ozaki, Yokoo: Large-scale Landmark Retrieval/Recognition under a Noisy and Diverse Dataset,
        arXiv 1906.04087: inliers and demotion. Henkel, Singer: Supporting large-scale image
        recognition with out-of-domain samples, arXiv 2010.01650, with notebooks/blend_ranking.ipynb
        of their code: similarity max(cosine, 0) minus the 5 nearest distractors of a train photo,
        score minus the 10 nearest of the query.

    Example:
        >>> from landmark.search import Flat
        >>> train = Flat().build(np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32))
        >>> query = np.array([[0.6, 0.8]], np.float32)
        >>> recognizer = Recognizer(k=3, temperature=None, rival=0)
        >>> found = recognizer(query, train, np.array([0, 0, 1]))
        >>> found.landmarks.tolist(), found.scores.round(2).tolist()
        ([0], [1.12])
    """

    @checked
    def __init__(
        self,
        k: PositiveInt = 30,
        candidates: PositiveInt = 100,
        temperature: Annotated[float, Field(ge=1e-4)] | None = 0.01,
        rival: Annotated[float, Field(ge=0, le=1)] = 0.5,
        verified: PositiveInt = 20,
        inliers: NonNegativeFloat = 0.1,
        centres: NonNegativeFloat = 0.0,
        train_distractors: PositiveInt = 5,
        query_distractors: PositiveInt = 10,
        demote: Annotated[int, Field(ge=2)] | None = None,
    ) -> None:
        self.k = k
        self.candidates = max(candidates, k)
        self.temperature = temperature
        self.rival = rival
        self.verified = verified
        self.inliers = inliers
        self.centres = centres
        self.train_distractors = train_distractors
        self.query_distractors = query_distractors
        self.demote = demote

    def __call__(
        self,
        query: np.ndarray,
        train: Index,
        landmarks: NDArray[np.integer],
        *,
        own_rows: NDArray[np.integer] | None = None,
        distractors: Index | None = None,
        own_distractor_rows: NDArray[np.integer] | None = None,
        count_inliers: CountInliers | None = None,
        centres: NDArray[np.float32] | None = None,
    ) -> Predictions:
        """Recognize queries. Under a launcher all ranks must call it with the same arguments.

        Args:
            query: (Q, D), unit rows.
            train: Index of the train photos (N, D).
            landmarks: (N,) code of each train photo's landmark; -1 for photos that do not vote.
            own_rows: (Q,) train row of the query itself, which does not vote; -1 for none.
            distractors: Index of photos that show no landmark.
            own_distractor_rows: (Q,) row of the query itself among them.
            count_inliers: Maps pairs (P, 2) of query and train rows to their inliers (P,). None
                means that photos are not verified.
            centres: (L, D) or (L, K, D), see `centre_cosines`.
        """
        depth = min(self.candidates, len(train.gallery))
        rows, cosines = train.search_others(query, depth, own_rows)
        codes = np.where(rows >= 0, landmarks[np.maximum(rows, 0)], -1)
        first = np.argmax(codes >= 0, axis=1)[:, None]
        nearest = np.take_along_axis(codes, first, axis=1)[:, 0]
        nearest_cosines = np.take_along_axis(cosines, first, axis=1)[:, 0]
        weights = self._similarities(train, rows, cosines, distractors)
        if centres is not None and self.centres:
            weights += self.centres * centre_cosines(query, centres, codes)
        weights[codes < 0] = -np.inf
        keep = self.k if count_inliers is None else max(self.k, self.verified)
        rows, cosines, codes, weights = _best(weights, keep, rows, cosines, codes, weights)
        inliers = None
        if count_inliers is not None:
            inliers = np.zeros(rows.shape, np.int32)
            first = slice(None), slice(self.verified)
            inliers[first] = _inliers_of(rows[first], codes[first] >= 0, count_inliers)
            weights += self.inliers * np.minimum(inliers, MOST_INLIERS) / MOST_INLIERS
            rows, cosines, codes, weights, inliers = _best(
                weights, self.k, rows, cosines, codes, weights, inliers
            )
        ballot = count_votes(codes, weights, self.temperature)
        is_predicted = ballot.landmarks >= 0
        scores = np.where(is_predicted, ballot.scores, -np.inf)
        if self.rival:
            scores[is_predicted] -= self.rival * ballot.rivals[is_predicted]
        if distractors is not None:
            scores -= mean_similarity(
                query, distractors, self.query_distractors, own_rows=own_distractor_rows
            )
        winners = ballot.landmarks
        return Predictions(
            landmarks=winners,
            scores=scores if self.demote is None else demoted(winners, scores, self.demote),
            voters=np.where(codes >= 0, rows, -1).astype(np.int32),
            weights=np.where(codes >= 0, weights, 0),
            cosines=cosines,
            nearest=nearest,
            nearest_cosines=np.where(nearest >= 0, nearest_cosines, -np.inf),
            inliers=inliers,
        )

    def _similarities(
        self,
        train: Index,
        rows: NDArray[np.integer],
        cosines: NDArray[np.float32],
        distractors: Index | None,
    ) -> NDArray[np.float64]:
        """Return the similarity of each candidate, (Q, C): cosine, or 1 − squared distance."""
        exact = np.where(rows >= 0, cosines, 0).astype(np.float64)
        if distractors is None:
            return 2 * exact - 1 if self.temperature is None else exact
        distinct, position = np.unique(np.maximum(rows, 0), return_inverse=True)
        means = mean_similarity(train.gallery, distractors, self.train_distractors, distinct)
        return np.clip(exact, 0, 1) - means[position.reshape(rows.shape)]


def demoted(
    landmarks: NDArray[np.integer], scores: NDArray[np.float64], limit: int
) -> NDArray[np.float64]:
    """Lower the scores of landmarks that are predicted at least `limit` times below all others.

    Args:
        landmarks: (Q,) codes; -1 without a prediction.
        scores: (Q,).
        limit: Number of predictions.

    Returns:
        (Q,) scores: the lowest other score, at most 0, minus the number of predictions.

    Example:
        >>> demoted(np.array([0, 0, 1]), np.array([0.9, 0.8, 0.3]), limit=2).tolist()
        [-2.0, -2.0, 0.3]
    """
    is_predicted = landmarks >= 0
    counts = np.bincount(landmarks[is_predicted], minlength=1)
    of_query = np.where(is_predicted, counts[np.maximum(landmarks, 0)], 0)
    others = scores[is_predicted & (of_query < limit)]
    return np.where(of_query >= limit, others.min(initial=0) - of_query, scores)


def _best(weights: NDArray[np.float64], keep: int, *columns: NDArray) -> list[NDArray]:
    """Return the columns (Q, C) of the `keep` candidates with the largest weights, in order."""
    order = np.argsort(-weights, axis=1, kind="stable")[:, :keep]
    return [np.take_along_axis(column, order, axis=1) for column in columns]


def _inliers_of(
    rows: NDArray[np.integer], is_voter: NDArray[np.bool_], count_inliers: CountInliers
) -> NDArray[np.int32]:
    """Return the inliers of each voter, (Q, V); 0 at the pads."""
    queries, places = np.nonzero(is_voter)
    inliers = np.zeros(rows.shape, np.int32)
    pairs = np.stack([queries, rows[queries, places]], axis=1)
    inliers[queries, places] = count_inliers(pairs)
    return inliers

"""Soft voting: predict the landmark of a photo from its nearest train photos."""

from dataclasses import dataclass

import numpy as np

from landmark.search.index import Index

_MOST_INLIERS = 70


@dataclass(frozen=True, eq=False)
class Votes:
    """The winning landmark of each photo.

    Attributes:
        landmarks: (N,) int code of the landmark; -1 if unknown.
        scores: (N,) float64, mean weight of its votes: at most 1, or 2 with inliers.

    Example:
        >>> votes = Votes(np.array([4, -1]), np.array([0.9, 0.2]))
        >>> votes.landmarks[votes.scores > 0.5].tolist()
        [4]
    """

    landmarks: np.ndarray
    scores: np.ndarray


def soft_vote(
    photos: np.ndarray,
    train_index: Index,
    train_landmarks: np.ndarray,
    k: int,
    temperature: float | None = None,
    own_rows: np.ndarray | None = None,
) -> Votes:
    """Let each photo's k nearest train photos vote for their landmarks.

    Args:
        photos: (N, D), unit rows.
        train_index: Index of the train photos, (N_t, D), unit rows.
        train_landmarks: (N_t,) int codes from 0; -1 if unknown.
        k: Voters per photo.
        temperature: See `vote`.
        own_rows: (N,) train row of each photo itself, which does not vote; -1 for none. Defaults to
            none.

    Example:
        >>> from landmark.search import Flat
        >>> index = Flat().build(np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32))
        >>> votes = soft_vote(np.array([[0.8, 0.6]]), index, np.array([0, 1, 1]), k=3)
        >>> votes.landmarks.tolist(), votes.scores.round(3).tolist()
        ([1], [0.52])
    """
    voters = min(k, len(train_index.gallery))
    rows, cosines = train_index.search_others(photos, voters, own_rows)
    landmarks = np.where(rows >= 0, train_landmarks[np.maximum(rows, 0)], -1)
    votes = vote(landmarks, cosines, temperature, voters=rows >= 0)
    if voters == k:
        return votes
    return Votes(votes.landmarks, votes.scores * voters / k)  # the mean is over k


def vote(
    landmarks: np.ndarray,
    cosines: np.ndarray,
    temperature: float | None = None,
    inliers: np.ndarray | None = None,
    voters: np.ndarray | None = None,
) -> Votes:
    """Let the k nearest train photos of each photo vote for their landmarks.

    v(x, c) = (1 / k) * sum of the weights of those of the k nearest train photos of x that show
    landmark c. The landmark with the largest v wins, with v as its score; ties go to the landmark
    of the nearer train photo (Yokoo et al. 2020, arXiv 2003.11211). The weight is the cosine with
    x, or with a temperature exp((cosine - 1) / temperature): the weights of Wu et al. 2018 (arXiv
    1805.01978), scaled to 1 at a cosine of 1. For matched photos min(inliers, 70) / 70 is added to
    the weight (Yokoo et al., recognition).

    Args:
        landmarks: (N, k) int codes of the voters' landmarks; -1 if unknown.
        cosines: (N, k) cosines of the voters, descending.
        temperature: Lower values emphasise the nearest voters. None weights by the cosines.
        inliers: (N, k) inliers of each voter. None means that photos were not matched.
        voters: (N, k) bool, whether the entry is a voter. None means all are.

    Example:
        >>> votes = vote(np.array([[4, 7, 7]]), np.array([[0.9, 0.6, 0.6]]))
        >>> votes.landmarks.tolist(), votes.scores.round(3).tolist()
        ([7], [0.4])
    """
    if voters is None:
        voters = np.ones(landmarks.shape, bool)
    weights = np.where(voters, cosines, 0).astype(np.float64)
    if temperature is not None:
        weights = np.exp((weights - 1) / temperature)
    if inliers is not None:
        weights += np.minimum(inliers, _MOST_INLIERS) / _MOST_INLIERS
    k = landmarks.shape[1]
    shares = np.zeros(landmarks.shape)
    for other in range(k):  # one by one: all together would need (N, k, k)
        same = (landmarks == landmarks[:, other, None]) & voters[:, other, None]
        shares += same * weights[:, other, None] / k
    shares[~voters] = -np.inf
    best = shares.argmax(axis=1)[:, None]
    return Votes(
        np.take_along_axis(landmarks, best, axis=1)[:, 0],
        np.take_along_axis(shares, best, axis=1)[:, 0],
    )

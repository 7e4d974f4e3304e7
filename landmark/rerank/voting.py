"""Soft voting: which landmark a photo shows, by its nearest train photos."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from landmark.rerank.retrieval import Search


@dataclass(frozen=True, eq=False)
class Votes:
    """The landmark voted for each photo.

    Attributes:
        landmarks: (N,) int code of the landmark, -1 for none.
        scores: (N,) float64, its share of the cosines, at most 1.
    """

    landmarks: np.ndarray
    scores: np.ndarray

    def of(self, photos: slice) -> "Votes":
        """The votes of some of the photos."""
        return Votes(self.landmarks[photos], self.scores[photos])


def landmark_codes(landmark_ids: np.ndarray) -> np.ndarray:
    """Number landmarks from 0 as they come, -1 for None, NaN and the empty string."""
    return pd.factorize(pd.Series(landmark_ids, dtype=object).replace("", None))[0]


def soft_vote(
    photos: np.ndarray, train: np.ndarray, train_landmarks: np.ndarray, k: int, search: Search
) -> Votes:
    """Let each photo's k nearest train photos vote for their landmarks with their cosines.

    v(x, c) = (1 / k) * sum over those of the k nearest train photos of x that show landmark c of
    their cosine with x. The vote is the c of the largest v, and its score that v; of equal ones the
    landmark of the nearer train photo. (Yokoo et al. 2020, arXiv 2003.11211.)

    Args:
        photos: (N, D), unit rows.
        train: (N_t, D), unit rows.
        train_landmarks: (N_t,) int codes from 0; photos of -1 vote for no landmark.
        k: Voters a photo.
        search: search(query, gallery, k) gives rows and scores.
    """
    rows, cosines = search(photos, train, k)
    voter = rows >= 0
    landmarks = np.where(voter, train_landmarks[np.maximum(rows, 0)], -1)  # (N, k)
    cosines = np.where(voter, cosines, 0).astype(np.float64)
    shares = np.zeros(cosines.shape)
    for other in range(k):  # not at once: (N, k, k)
        shares += (landmarks == landmarks[:, other, None]) * cosines[:, other, None] / k
    shares[~voter] = -np.inf
    best = shares.argmax(axis=1)[:, None]
    return Votes(
        np.take_along_axis(landmarks, best, axis=1)[:, 0],
        np.take_along_axis(shares, best, axis=1)[:, 0],
    )

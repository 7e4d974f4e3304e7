"""Add up the weights of voters for each landmark."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Ballot(NamedTuple):
    """The two landmarks with the most votes for each of Q queries.

    Attributes:
        landmarks: (Q,) code of the winner; -1 without a voter.
        scores: (Q,) its votes; -inf without a voter.
        rivals: (Q,) votes of the second; of the weakest single voter if all vote for the winner.
    """

    landmarks: NDArray[np.int64]
    scores: NDArray[np.float64]
    rivals: NDArray[np.float64]


def count_votes(
    codes: NDArray[np.integer], weights: NDArray[np.floating], temperature: float | None
) -> Ballot:
    """Let the voters of each query vote for their landmarks.

    Without a temperature the votes of a landmark are the sum of the weights w of its voters. With a
    temperature T they are T · log Σ exp(w / T): the largest weight, and up to T · log n more where
    n voters agree.

    Args:
        codes: (Q, k) landmark of each voter, largest weight first; -1 for none.
        weights: (Q, k).
        temperature: T.

    Example:
        >>> codes, weights = np.array([[4, 7, 7]]), np.array([[0.9, 0.6, 0.6]])
        >>> count_votes(codes, weights, None).landmarks.tolist()
        [7]
        >>> ballot = count_votes(codes, weights, 0.1)
        >>> ballot.landmarks.tolist(), ballot.scores.tolist(), ballot.rivals.round(3).tolist()
        ([4], [0.9], [0.669])
    """
    is_voter = codes >= 0
    plain = np.where(is_voter, weights, 0).astype(np.float64)
    largest = np.where(is_voter, weights, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    base = np.where(np.isfinite(largest), largest, 0)
    if temperature is not None:
        plain = np.where(is_voter, np.exp((plain - base) / temperature), 0)
    votes = np.zeros(codes.shape)
    for other in range(codes.shape[1]):  # one by one: all together would need (Q, k, k)
        same = (codes == codes[:, other, None]) & is_voter[:, other, None]
        votes += same * plain[:, other, None]
    votes = np.where(is_voter, votes, -np.inf)
    winner = votes.argmax(axis=1)[:, None]
    landmarks = np.take_along_axis(codes, winner, axis=1)[:, 0]
    scores = np.take_along_axis(votes, winner, axis=1)[:, 0]
    rivals = np.where(codes == landmarks[:, None], -np.inf, votes).max(axis=1)
    if temperature is not None:
        with np.errstate(divide="ignore"):  # exp underflows for a rival far below: its log is -inf
            logs = temperature * np.log(np.maximum(np.stack([scores, rivals]), 0))
        scores, rivals = logs + base[:, 0]
    weakest = np.where(is_voter, weights, np.inf).min(axis=1)
    rivals = np.where(np.isfinite(rivals), rivals, weakest)
    has_voter = is_voter.any(axis=1)
    return Ballot(
        np.where(has_voter, landmarks, -1),
        np.where(has_voter, scores, -np.inf),
        np.where(has_voter, rivals, -np.inf),
    )

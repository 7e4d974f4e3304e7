"""Descriptors with exact cosines, so that ties are the same in every implementation."""

import numpy as np

from landmark.rerank.retrieval import Retrieval
from landmark.search import Flat


def exact_unit(random, landmarks: int, photos: int, flips: int = 5) -> np.ndarray:
    """Return unit vectors (photos, 20) of entries 0 and ±1/4, scattered around their landmarks."""
    centres = np.zeros((landmarks, 20), np.float32)
    for centre in centres:
        centre[random.permutation(20)[:16]] = random.choice([-0.25, 0.25], 16)
    vectors = centres[random.integers(0, landmarks, photos)]
    for vector in vectors:
        places = np.flatnonzero(vector)
        vector[random.permutation(places)[:flips]] *= random.choice([-1, 1], flips)
    return vectors


def exact_retrieval(seed: int, queries: int, gallery: int, k: int, landmarks: int = 3) -> Retrieval:
    random = np.random.default_rng(seed)
    photos = exact_unit(random, landmarks, queries + gallery)
    search = Flat(device="cpu", block_rows=16)
    return Retrieval.from_search(photos[:queries], photos[queries:], k, search)


def cosines_of(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left.astype("f8") @ right.astype("f8").T


def nearest(cosines: np.ndarray, k: int, own: bool) -> np.ndarray:
    """Return the k best of each row, ties by row; with `own`, the row itself first."""
    cosines = cosines.copy()
    if own:
        np.fill_diagonal(cosines, np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]


def check_ranking(rows, scores, wanted, former, atol=1e-5) -> None:
    """Check that rows are sorted by the expected scores (Q, N) above 0, then by their former order.

    The order of scores that differ only by rounding is not checked.
    """
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert ((scores == -np.inf) == (rows < 0)).all()
    for row, want, before in zip(rows, wanted, former, strict=True):
        listed = row[row >= 0]
        assert len(set(listed)) == len(listed)
        kept = min(len(listed), int((want > atol).sum()))
        best = np.sort(want)[::-1][:kept]
        np.testing.assert_allclose(want[listed[:kept]], best, atol=atol)
        rest = [r for r in listed[kept:] if want[r] <= atol]
        if len(rest) == len(listed) - kept and (want[want > 0] > atol).all():
            left = [r for r in before if r >= 0 and r not in set(listed[:kept])]
            assert rest == left[: len(rest)]

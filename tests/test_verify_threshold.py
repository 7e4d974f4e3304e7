"""Thresholds of verification for a wanted rate of false pairs, and the pairs that set them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.error import UserError
from landmark.verify import null_pairs, random_pairs, threshold

few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@few
@given(seeds, st.integers(1, 300), st.integers(1, 99), st.integers(1, 40))
def test_the_threshold_is_the_smallest_that_passes_at_most_the_rate(seed, n, percent, values):
    scores = np.random.default_rng(seed).integers(0, values, n).astype(np.float32)  # many ties
    rate, exact = percent / 100, Fraction(percent, 100)
    if n < 1 / exact:
        with pytest.raises(UserError, match=f"needs at least {-(-100 // percent)} pairs"):
            threshold(scores, rate)
        return
    limit = threshold(scores, rate)
    assert (scores > limit).sum() <= exact * n
    lower = np.nextafter(np.float32(limit), np.float32(-np.inf))
    assert (scores > lower).sum() > exact * n


def test_the_share_of_new_pairs_that_pass_is_as_documented():
    rng = np.random.default_rng(0)
    for n, share in ((100, 2 / 101), (1000, 11 / 1001)):
        limits = [threshold(rng.random(n), 0.01) for _ in range(3000)]
        assert 1 - np.mean(limits) == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        (np.zeros(99), 0.01, "false_rate=0.01 needs at least 100 pairs .* there are 99"),
        ([], 0.5, "needs at least 2 pairs .* there are 0"),
        (np.zeros(100), 0.0, "false_rate=0.0 is not valid. Pass a number > 0 and < 1"),
        (np.zeros(100), 1, "false_rate=1 is not valid"),
        ([1.0, np.nan, 2.0], 0.5, "a score of a pair of different places is not a number"),
    ],
)
def test_null_scores_that_set_no_threshold_are_refused(scores, rate, message):
    with pytest.raises(UserError, match=message):
        threshold(scores, rate)


@few
@given(seeds, st.integers(2, 60), st.integers(2, 6), st.integers(1, 100))
def test_null_pairs_are_the_nearest_photos_of_other_landmarks(seed, n, landmarks, pairs):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.array([f"l{i % landmarks}" for i in range(n)])
    found = null_pairs(vectors, labels, pairs, seed)
    assert found.tolist() == null_pairs(vectors, labels, pairs, seed).tolist()
    assert len({frozenset(pair) for pair in found.tolist()}) == len(found) <= pairs
    assert (labels[found[:, 0]] != labels[found[:, 1]]).all()
    chosen = min(n, pairs)
    each = -(-pairs // chosen)
    for row in np.unique(found[:, 0]):
        of_row = found[found[:, 0] == row, 1]
        others = np.flatnonzero(labels != labels[row])
        nearest = others[np.argsort(-(vectors[others] @ vectors[row]), kind="stable")][:each]
        assert set(of_row) <= set(nearest)
    if pairs <= n:  # nearly one a photo: only a pair that chose each other counts once
        assert len(found) >= pairs / 2


def test_null_pairs_in_blocks_equal_those_of_one_product(monkeypatch):
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((50, 5)).astype(np.float32)
    labels = rng.integers(0, 7, 50)
    expected = null_pairs(vectors, labels, 90)
    monkeypatch.setattr("landmark.verify.null._BLOCK_ROWS", 8)
    assert null_pairs(vectors, labels, 90).tolist() == expected.tolist()


def test_a_store_of_one_landmark_has_no_null_pairs():
    with pytest.raises(UserError, match="all photos are of one landmark"):
        null_pairs(np.eye(3, dtype=np.float32), np.array(["a", "a", "a"]))


@few
@given(seeds, st.integers(1, 70), st.one_of(st.none(), st.integers(1, 30)), st.integers(1, 80))
def test_random_pairs_are_distinct_and_as_many_as_there_are(seed, n, pool, pairs):
    total = n * (n - 1) // 2 if pool is None else n * pool
    if not total:
        with pytest.raises(UserError, match="1 photos give no pairs"):
            random_pairs(n, pool, pairs, seed)
        return
    found = random_pairs(n, pool, pairs, seed)
    assert len(found) == min(pairs, total)
    assert found.min() >= 0
    assert found[:, 0].max() < n
    assert found[:, 1].max() < (pool or n)
    assert len(np.unique(found, axis=0)) == len(found)
    if pool is None:
        assert (found[:, 0] < found[:, 1]).all()
    assert found.tolist() == random_pairs(n, pool, pairs, seed).tolist()


def test_random_pairs_of_large_stores_are_spread_evenly():
    found = random_pairs(4_132_914, pairs=20_000)
    # The larger of two random rows is 2/3 of the number of rows on average, the smaller 1/3.
    assert found.mean(axis=0) / 4_132_914 == pytest.approx([1 / 3, 2 / 3], abs=0.01)

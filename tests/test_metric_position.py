"""Metrics at any k, and positives by distance, against naive loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.metric import gldv2
from landmark.metric.position import count_within, hits_by_position
from landmark.metric.recall import recall_at_k


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    queries=st.integers(0, 6),
    photos=st.integers(0, 40),
    radius=st.sampled_from([1e-3, 0.5, 5.0, 25.0, 1e4]),
    spread=st.sampled_from([0.0, 6.0, 40.0, 3e5]),
    whole=st.booleans(),
    block_size=st.integers(1, 50),
)
def test_positives_by_distance_equal_a_loop(
    seed, queries, photos, radius, spread, whole, block_size
):
    random = np.random.default_rng(seed)
    origin = np.array([5e5, 4.1e6])
    query, gallery = (origin + spread * random.random((n, 2)) for n in (queries, photos))
    if whole:  # many pairs exactly at the radius, such as 3, 4, 5 and 15, 20, 25
        query, gallery = np.round(query), np.round(gallery)
    if queries > 1:
        query[1] = origin - 1e9  # far outside the gallery
    rows = (
        random.integers(-1, max(1, photos), (queries, 9)) if photos else np.full((queries, 9), -1)
    )
    hits, relevant = hits_by_position(rows, query, gallery, radius)
    np.testing.assert_array_equal(count_within(query, gallery, radius, block_size), relevant)
    for one in range(queries):
        near = {
            row
            for row in range(photos)
            if (gallery[row, 0] - query[one, 0]) ** 2 + (gallery[row, 1] - query[one, 1]) ** 2
            <= radius * radius
        }
        assert relevant[one] == len(near)
        seen = set()
        for place, row in enumerate(rows[one].tolist()):
            assert hits[one, place] == (row in near and row not in seen)
            seen.add(row)


def test_a_photo_at_exactly_the_radius_is_a_positive():
    gallery = np.array([[15.0, 20.0], [25.0, 0.0], [15.0, math.nextafter(20.0, 30)]])
    assert count_within(np.zeros((1, 2)), gallery, 25.0).tolist() == [2]


def test_many_photos_at_one_position_are_compared_in_blocks():
    gallery = np.concatenate([np.zeros((3000, 2)), np.full((3000, 2), 1e6)])
    query = np.array([[3.0, 4.0], [1e6, 1e6 - 5], [5e5, 0.0]])
    assert count_within(query, gallery, 5.0, block_size=100).tolist() == [3000, 3000, 0]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([1, 7, 100, 1000, 5000]))
def test_long_rankings_equal_a_loop_for_any_k(seed, k):
    random = np.random.default_rng(seed)
    hits = random.random((5, 1500)) < random.choice([0.002, 0.1, 0.9])
    hits[0] = False
    relevant = hits.sum(axis=1) + random.integers(0, 3, 5)
    precisions, recalls = gldv2.average_precision_at_k(hits, relevant, k), recall_at_k(hits, k)
    for one in range(5):
        found, total = 0, 0.0
        for place in range(min(k, 1500)):
            if hits[one, place]:
                found += 1
                total += found / (place + 1)
        if relevant[one]:
            assert precisions[one] == pytest.approx(total / min(relevant[one], k), abs=1e-12)
        else:
            assert np.isnan(precisions[one])
        assert recalls[one] == (found > 0)
    assert recall_at_k(np.empty((3, 0), bool), k).tolist() == [0, 0, 0]

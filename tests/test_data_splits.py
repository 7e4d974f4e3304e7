"""Splits, filters and grouped batches against naive loops."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.data.batches import grouped_batches
from landmark.data.image_table import sorted_landmarks
from landmark.data.splits import draw_splits, filter_photos
from landmark.error import UserError

LANDMARKS = st.lists(st.integers(0, 9).map(str), min_size=1, max_size=120)


def naive_counts(photos: int, query: float, gallery: float) -> tuple[int, int]:
    if photos < 3:
        return 0, 0
    queries = min(photos - 2, max(1, round(photos * query))) if query else 0
    searched = min(photos - 1 - queries, max(1, round(photos * gallery))) if gallery else 0
    return queries, searched


@settings(max_examples=60, deadline=None)
@given(LANDMARKS, st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2, 0.6]))
def test_splits_of_each_landmark_equal_a_naive_count(landmarks, query, gallery):
    ids = pd.Series(landmarks)
    splits = draw_splits(ids, query, gallery, seed=3)
    for landmark, photos in Counter(landmarks).items():
        found = Counter(splits[(ids == landmark).to_numpy()])
        assert (found["query"], found["gallery"]) == naive_counts(photos, query, gallery)
        assert found.total() == photos
    assert splits.tolist() == draw_splits(ids, query, gallery, seed=3).tolist()


def test_splits_depend_on_the_seed_and_refuse_invalid_fractions():
    ids = pd.Series(["a"] * 50)
    assert (draw_splits(ids, 0.1, 0.2, 0) != draw_splits(ids, 0.1, 0.2, 1)).any()
    with pytest.raises(UserError, match="sum below 1"):
        draw_splits(ids, 0.5, 0.5, 0)


@settings(max_examples=40, deadline=None)
@given(LANDMARKS, st.integers(1, 5))
def test_hold_out_of_some_landmarks(landmarks, number):
    ids = pd.Series(landmarks)
    splits = draw_splits(ids, 0.2, 0.3, seed=1, landmarks=number)
    counts = Counter(landmarks)
    able = sum(photos >= 3 for photos in counts.values())
    held = set(ids[splits != "train"])
    assert len(held) == min(number, max(1, len(counts) // 10), able)
    for landmark in held:
        found = Counter(splits[(ids == landmark).to_numpy()])
        assert (found["query"], found["gallery"]) == naive_counts(counts[landmark], 0.2, 0.3)


@settings(max_examples=60, deadline=None)
@given(
    LANDMARKS,
    st.none() | st.integers(1, 6),
    st.integers(1, 6),
    st.none() | st.integers(1, 6),
)
def test_filters_equal_a_naive_loop(landmarks, most_frequent, min_photos, max_photos):
    rows = pd.DataFrame({"id": range(len(landmarks)), "landmark_id": landmarks})
    kept = filter_photos(rows, most_frequent, min_photos, max_photos, seed=2)
    by_count = sorted(
        Counter(landmarks).items(), key=lambda pair: -pair[1]
    )  # stable: ties in order
    expected = {
        landmark: photos if max_photos is None else min(photos, max_photos)
        for landmark, photos in by_count[:most_frequent]
        if photos >= min_photos
    }
    assert Counter(kept["landmark_id"]) == expected
    assert kept["id"].is_monotonic_increasing
    assert (rows.loc[kept["id"], "landmark_id"].to_numpy() == kept["landmark_id"]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 4))
def test_grouped_batches_contain_every_row_once(groups, batch_size, num_replicas):
    groups = np.array(groups)
    shares = [grouped_batches(groups, batch_size, num_replicas, r) for r in range(num_replicas)]
    for batches in shares:
        assert all(1 <= len(rows) <= batch_size for rows in batches)
        assert all(len(set(groups[rows])) == 1 for rows in batches)
        assert [rows[0] for rows in batches] == sorted(rows[0] for rows in batches)
    seen = [row for batches in shares for rows in batches for row in rows.tolist()]
    assert sorted(seen) == list(range(len(groups)))
    sizes = [sum(map(len, batches)) for batches in shares]
    assert max(sizes) - min(sizes) <= 1


def test_numeric_landmarks_are_sorted_by_value():
    assert sorted_landmarks(pd.Series(["10", "9", "9", "100"])) == ["9", "10", "100"]
    assert sorted_landmarks(pd.Series(["10", "9", "b"])) == ["10", "9", "b"]

"""Relevance of each result by each ground truth, against naive loops."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.descriptors import DescriptorStore
from landmark.data import ImageTable
from landmark.score.ground_truth import (
    LandmarkGroundTruth,
    RevisitedGroundTruth,
    find_ground_truth,
)


def rankings(random, queries, gallery, k):
    rows = np.stack([random.permutation(gallery)[:k] for _ in range(queries)])
    rows[0, k // 2 :] = -1
    return rows


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_landmarks(seed):
    random = np.random.default_rng(seed)
    names = np.array(["a", "b", "c", "", None], object)
    query, gallery = random.choice(names, 6), random.choice(names, 25)
    query[0] = gallery[0] = "a"
    rows = rankings(random, 6, 25, 9)
    truth = LandmarkGroundTruth(query, gallery)
    precision = truth.evaluate(rows).precisions[truth.headline]
    kinds = truth.relevance_labels(np.arange(6), rows)
    for one, asked in enumerate(query):
        right, total = 0, 0.0
        for place, row in enumerate(rows[one].tolist()):
            if row < 0:
                assert kinds[one, place] == ""
            elif not asked or not gallery[row]:
                assert kinds[one, place] == "unknown"
            elif gallery[row] == asked:
                right += 1
                total += right / (place + 1)
                assert kinds[one, place] == "right"
            else:
                assert kinds[one, place] == "wrong"
        relevant = sum(landmark == asked for landmark in gallery) if asked else 0
        if relevant:
            assert precision[one] == pytest.approx(total / relevant)
        else:
            assert np.isnan(precision[one])
    assert np.nanmean(precision) == pytest.approx(truth.evaluate(rows).metrics[truth.headline])
    some = random.permutation(6)[:3]
    assert truth.relevance_labels(some, rows[some]).tolist() == kinds[some].tolist()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_lists(seed):
    random = np.random.default_rng(seed)
    photos = random.permutation(25)[:20]  # five of the store are distractors
    positions = np.full(25, -1)
    positions[photos] = np.arange(20)
    lists = []
    for _ in range(6):
        drawn = random.permutation(20)
        lists.append({"easy": drawn[:3], "hard": drawn[3:7], "junk": drawn[7:10]})
    lists[1] = {"easy": [], "hard": [], "junk": [1]}
    lists[2]["junk"] = [*lists[2]["junk"], lists[2]["easy"][0]]  # listed twice: easy
    rows = rankings(random, 6, 25, 12)
    truth = RevisitedGroundTruth(lists, positions)
    kinds = truth.relevance_labels(np.arange(6), rows)
    for one, place in np.ndindex(rows.shape):
        row = rows[one, place]
        listed = [kind for kind in ("easy", "hard", "junk") if positions[row] in lists[one][kind]]
        expected = "" if row < 0 else next(iter(listed), "wrong")
        assert kinds[one, place] == expected
    precision = truth.evaluate(rows).precisions[truth.headline]
    assert np.isnan(precision).tolist() == [False, True, False, False, False, False]
    assert np.nanmean(precision) == pytest.approx(truth.evaluate(rows).metrics[truth.headline])
    some = random.permutation(6)[:3]
    assert truth.relevance_labels(some, rows[some]).tolist() == kinds[some].tolist()


def test_nearest_accuracy_counts_only_queries_with_a_known_landmark():
    query = np.array(["a", "b", None, "c"], object)
    truth = LandmarkGroundTruth(query, np.array(["a"], object))
    train = np.array(["b", "a", "c"])
    # The first query's nearest is correct, the second's wrong; the last has no result.
    rows = np.array([[1, 0], [2, 0], [0, 1], [-1, -1]])
    assert truth.nearest_accuracy(rows, train) == pytest.approx(1 / 3)


def test_metrics_of_cut_rankings_are_named_after_k():
    random = np.random.default_rng(0)
    query, gallery = random.integers(0, 3, 5), random.integers(0, 3, 40)
    rows = np.stack([random.permutation(40)[:6] for _ in query])
    truth = LandmarkGroundTruth(query, gallery, k=6)
    metrics = truth.evaluate(rows).metrics
    assert list(metrics) == ["map_at_6", "precision_at_6", "top_1"]
    assert (truth.headline, truth.labels) == ("map_at_6", {"map_at_6": "mAP@6"})
    precisions = []
    for ranking, landmark in zip(rows, query, strict=True):
        right = gallery[ranking] == landmark
        relevant = min(6, int((gallery == landmark).sum()))
        hits = [right[: place + 1].mean() for place in range(6) if right[place]]
        precisions.append(sum(hits) / relevant)
    assert metrics["map_at_6"] == pytest.approx(np.mean(precisions))
    for k in (40, 100, None):  # complete, or as many as mAP@100 needs
        assert LandmarkGroundTruth(query, gallery, k=k).headline == "map_at_100"
    assert LandmarkGroundTruth(query, np.tile(gallery, 5), k=150).headline == "map_at_100"


def test_revisited_metrics_of_cut_rankings_are_named_after_k():
    lists, positions = [{"easy": [1], "hard": [3], "junk": []}], np.arange(5)
    cut, complete = (RevisitedGroundTruth(lists, positions, k=k) for k in (2, 5))
    assert cut.labels == {
        "easy_at_2": "easy mAP@2",
        "medium_at_2": "medium mAP@2",
        "hard_at_2": "hard mAP@2",
    }
    assert cut.headline == "medium_at_2"
    metrics = cut.evaluate(np.array([[1, 0]])).metrics
    assert metrics == {"easy_at_2": 1, "medium_at_2": 0.5, "hard_at_2": 0}
    assert complete.headline == "medium"


def test_a_gallery_photo_that_the_data_has_in_another_split_keeps_its_landmark(tmp_path):
    vectors = np.eye(3, dtype=np.float32)
    DescriptorStore.write(tmp_path / "q", ["q"], vectors[:1], landmark_ids=["a"])
    names = ["g0", "moved", "distractor"]
    DescriptorStore.write(tmp_path / "g", names, vectors, landmark_ids=["b", "a", ""])
    query, gallery = (DescriptorStore.open(tmp_path / name) for name in ("q", "g"))
    tables = [
        ImageTable(tmp_path, pd.DataFrame({"id": [name], "path": "x.jpg", "landmark_id": landmark}))
        for name, landmark in (("q", "a"), ("g0", "b"))
    ]
    truth = find_ground_truth(query, gallery, *tables)
    assert truth.relevance_labels(np.array([0]), np.array([[0, 1, 2]])).tolist() == [
        ["wrong", "right", "unknown"]
    ]
    assert truth.distractors == 1

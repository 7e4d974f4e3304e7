"""Cleaning: candidate pairs, thresholds, findings and the audit, against naive loops."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.clean.audit import exclusion_table, find_overlap, nearest_train_photos
from landmark.clean.candidates import find_candidates
from landmark.clean.findings import likely_mislabels, near_duplicates, several_places
from landmark.clean.grid import as_text, combine, grid_table, nothing_kept
from landmark.clean.output import write_cleaned
from landmark.clean.pairs import Pairs
from landmark.clean.selection import Photos, Rule, null_scores, select
from landmark.error import UserError
from landmark.search import Flat


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


def pairs_of(a, b, scores=None, inliers=None, cosine=None):
    count = len(a)
    zeros = np.zeros(count)
    return Pairs(
        np.asarray(a, "i4"),
        np.asarray(b, "i4"),
        np.asarray(zeros if cosine is None else cosine, "f4"),
        np.asarray(zeros if inliers is None else inliers, "i4"),
        np.asarray(zeros if scores is None else scores, "f4"),
    )


def photos_of(labels, agreement=None, rivals=None, rival_shares=None):
    count = len(labels)
    return Photos(
        np.asarray(labels, "i4"),
        np.asarray(np.zeros(count) if agreement is None else agreement, "f4"),
        np.asarray(np.full(count, -1) if rivals is None else rivals, "i4"),
        np.asarray(np.zeros(count) if rival_shares is None else rival_shares, "f4"),
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 45))
def test_candidates_are_those_of_a_naive_loop(seed, count, k):
    random = np.random.default_rng(seed)
    vectors = unit(random.standard_normal((count, 5)))
    labels = random.integers(-1, 4, count).astype("i4")
    most, others, neighbours = (int(n) for n in random.integers(1, 6, 3))
    found = find_candidates(Flat("cpu").build(vectors), labels, k, most, others, neighbours)
    sizes, expected = Counter(labels.tolist()), set()
    for row in range(count):
        order = sorted(
            (j for j in range(count) if j != row), key=lambda j: -vectors[row] @ vectors[j]
        )
        near = order[:k]
        if labels[row] < 0:
            assert np.isnan(found.agreement[row])
            continue
        same = [j for j in near if labels[j] == labels[row]]
        other = [j for j in near if labels[j] not in (-1, labels[row])]
        expected |= {(min(row, j), max(row, j)) for j in same[:most] + other[:others]}
        depth = min(neighbours, sizes[labels[row]] - 1, len(near))
        if not depth:
            assert np.isnan(found.agreement[row])
            continue
        first = [int(labels[j]) for j in near[:depth]]
        assert found.agreement[row] == pytest.approx(first.count(labels[row]) / depth)
        rivals = Counter(label for label in first if label not in (-1, labels[row]))
        best = max(rivals.values(), default=0)
        assert found.rival_shares[row] == pytest.approx(best / depth)
        assert (rivals[int(found.rivals[row])] == best) if best else found.rivals[row] == -1
    assert [tuple(pair) for pair in found.pairs.tolist()] == sorted(expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_a_rule_keeps_what_a_naive_loop_keeps(seed, count):
    random = np.random.default_rng(seed)
    labels = random.integers(-1, 5, count)
    every = [(a, b) for a in range(count) for b in range(a + 1, count)]
    chosen = [pair for pair in every if random.random() < 0.5 and min(labels[list(pair)]) >= 0]
    a, b = np.array(chosen).reshape(-1, 2).T
    pairs = pairs_of(a, b, inliers=random.integers(0, 60, len(a)))
    photos = photos_of(labels, random.random(count), None, random.random(count))
    rule = Rule(int(random.integers(1, 5)), int(random.integers(10, 50)), 0.01, 0.6)
    found = select(pairs, photos, rule)
    passes = []
    for row in range(count):
        votes = sum(
            inliers >= rule.min_inliers and labels[x] == labels[y]
            for x, y, inliers in zip(a, b, pairs.inliers, strict=True)
            if row in (x, y)
        )
        assert found.neighbours[row] == votes
        agreement, rival = photos.agreement[row], photos.rival_shares[row]
        agrees = agreement >= np.float32(0.6) and agreement >= 0.5 * rival
        passes.append(labels[row] >= 0 and (votes >= rule.min_neighbours or bool(agrees)))
    kept = Counter(labels[np.array(passes, bool)].tolist())
    expected = [one and kept[label] >= 2 for one, label in zip(passes, labels, strict=True)]
    assert found.is_kept.tolist() == expected


def test_the_threshold_is_not_set_by_photos_with_a_wrong_label():
    random = np.random.default_rng(0)
    count = 400
    labels = np.repeat([0, 1], count // 2)
    wrong = np.arange(0, count, 5)
    agreement = np.where(np.isin(np.arange(count), wrong), 0.1, 0.8)
    photos = photos_of(labels, agreement, 1 - labels, 0.9 - agreement)
    a, b = random.integers(0, count // 2, 4000), random.integers(count // 2, count, 4000)
    scores = random.exponential(2, 4000)
    of_wrong = np.isin(a, wrong) | np.isin(b, wrong)
    scores[of_wrong] = 100
    pairs = pairs_of(a, b, scores=scores)
    assert of_wrong.mean() > 0.3
    used = null_scores(pairs, photos, 0.01)
    assert used.tolist() == scores[~of_wrong].astype("f4").tolist()
    assert select(pairs, photos, Rule()).threshold < 20
    none_trusted = photos_of(labels, np.zeros(count))
    assert len(null_scores(pairs, none_trusted, 0.01)) == 4000
    with pytest.raises(UserError, match="needs at least 100 pairs"):
        select(pairs_of([0], [399]), photos, Rule())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25))
def test_mislabels_are_those_of_a_naive_loop(seed, count):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    every = np.array([(a, b) for a in range(count) for b in range(a + 1, count)])
    a, b = every[random.random(len(every)) < 0.4].T
    pairs = pairs_of(a, b, inliers=random.integers(0, 60, len(a)))
    rivals = (labels + random.integers(1, 4, count)) % 4
    photos = photos_of(labels, np.zeros(count), rivals, random.random(count))
    selection = select(pairs, photos, Rule(3, 30))
    found = likely_mislabels(pairs, photos, selection)
    listed = dict(zip(found.rows.tolist(), found.labels.tolist(), strict=True))
    for row in range(count):
        votes = Counter()
        for x, y, inliers in zip(a, b, pairs.inliers, strict=True):
            if row in (x, y) and inliers >= 30 and labels[x] != labels[y]:
                votes[int(labels[y if row == x else x])] += 1
        most = max(votes.values(), default=0)
        more = most > selection.neighbours[row]
        is_listed = not selection.passes[row] and (more or photos.rival_shares[row] >= 0.5)
        assert is_listed == (row in listed)
        if is_listed:
            assert votes[listed[row]] == most if more else listed[row] == rivals[row]
    assert sorted(found.verified.tolist(), reverse=True) == found.verified.tolist()


def test_a_landmark_of_two_places_is_found():
    labels = [0] * 10 + [1] * 10 + [2] * 2
    rings = [range(6), range(6, 10), range(10, 20)]
    edges = [(ring[i], ring[i + 1]) for ring in rings for i in range(len(ring) - 1)]
    a, b = np.array([*edges, (5, 10), (20, 21)]).T
    photos = photos_of(labels)
    pairs = pairs_of(a, b, inliers=np.full(len(a), 40))
    found = several_places(pairs, photos, select(pairs, photos, Rule(1, 30)))
    assert found.labels.tolist() == [0]
    assert found.sizes == [(6, 4)]
    assert found.members == [((0, 1, 2), (6, 7, 8))]
    none = several_places(pairs, photos, select(pairs, photos, Rule(1, 50)))
    assert not len(none.labels)


def test_near_duplicates_are_verified_unless_nothing_is():
    pairs = pairs_of([0, 0, 1], [1, 2, 2], cosine=[0.99, 0.97, 0.5])
    assert near_duplicates(pairs, 0.95, None).tolist() == [0, 1]
    assert near_duplicates(pairs, 0.95, np.array([False, True, True])).tolist() == [1]


def test_a_grid_counts_what_each_rule_keeps_and_says_what_is_missing():
    random = np.random.default_rng(0)
    a, b = np.triu_indices(20, 1)
    photos = photos_of(np.repeat([0, 1], 10))
    pairs = pairs_of(a, b, inliers=random.integers(0, 40, len(a)))
    rules = combine(min_inliers=[20, 38], min_neighbours=[1, 3, 19])
    table = grid_table(pairs, photos, rules, geometry=True)
    kept = [int(select(pairs, photos, rule).is_kept.sum()) for rule in rules]
    assert table["photos"].tolist() == kept
    assert list(table.columns) == ["min_inliers", "min_neighbours", "photos", "share", "landmarks"]
    lines = as_text(table).splitlines()
    assert lines[0].split() == list(table.columns)
    assert len(lines) == 7
    rule = Rule(19, 38)
    text = nothing_kept(pairs, photos, select(pairs, photos, rule), geometry=True)
    same = a // 10 == b // 10
    enough = int((pairs.inliers[same] >= 38).sum())
    assert f"(min_inliers=38) keeps {enough} of {same.sum()} pairs of one landmark" in text
    assert "min_neighbours=19 keeps 0 photos" in text


def test_pairs_are_read_as_they_were_written(tmp_path):
    random = np.random.default_rng(0)
    a, b = np.triu_indices(30, 1)
    pairs = pairs_of(a, b, *random.random((3, len(a))))
    ids = np.array([f"photo {i}" for i in range(30)])
    pairs.write(tmp_path / "pairs.parquet", ids, ids)
    again = Pairs.read(tmp_path / "pairs.parquet", 30, 30)
    for name in ("a", "b", "cosine", "inliers", "scores"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pairs, name))
    frame = pd.read_parquet(tmp_path / "pairs.parquet")
    assert frame["a"].tolist() == ids[a].tolist()
    assert frame["b"].tolist() == ids[b].tolist()
    with pytest.raises(UserError, match="other photos"):
        Pairs.read(tmp_path / "pairs.parquet", 30, 29)
    (tmp_path / "pairs.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        Pairs.read(tmp_path / "pairs.parquet", 30, 30)


def test_the_cleaned_table_has_the_published_form(tmp_path):
    names = np.array(["9", "10", "11"])
    write_cleaned(tmp_path / "a.csv", np.array(["x", "y", "z"]), np.array([1, 0, 1]), names)
    assert (tmp_path / "a.csv").read_text() == "landmark_id,images\n9,y\n10,x z\n"


def test_an_audit_lists_landmarks_and_single_photos():
    random = np.random.default_rng(0)
    train, test = unit(random.standard_normal((9, 4))), unit(random.standard_normal((2, 4)))
    found = nearest_train_photos(Flat("cpu").build(train), test, k=3)
    for number in range(2):
        expected = np.argsort(-(train @ test[number]))[:3].tolist()
        assert found[found[:, 1] == number, 0].tolist() == expected
    labels = np.array([0, 0, 0, 1, 1, 2, 2, -1, -1], "i4")
    pairs = pairs_of(
        [0, 1, 2, 3, 5, 6, 7],
        [0, 0, 1, 1, 0, 1, 1],
        scores=[9, 8, 7, 6, 90, 1, 20],
        cosine=[0.5, 0.5, 0.5, 0.5, 0.99, 0.5, 0.5],
    )
    overlap = find_overlap(pairs, labels, pairs.scores > 5, min_cosine=0.95, min_pairs=3)
    assert overlap.duplicates.tolist() == [4]
    assert overlap.same_place.tolist() == [6, 0, 1, 2, 3]
    assert overlap.landmarks.tolist() == [0, 2]
    assert np.flatnonzero(overlap.photos).tolist() == [0, 1, 2, 3, 5, 7]
    assert overlap.test_photos == 2
    ids, names = np.array([f"p{i}" for i in range(9)]), np.array(["a", "b", "c"])
    table = exclusion_table(overlap, pairs, labels, names, ids, np.array(["t0", "t1"]))
    table = table.astype(object).where(table.notna(), None)
    assert table.to_numpy().tolist() == [
        [None, "c", "near-duplicate", "t0"],
        [None, "a", "same place", "t0"],
        ["p7", None, "same place", "t1"],
        ["p3", None, "same place", "t1"],
    ]

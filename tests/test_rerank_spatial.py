"""Re-ranking by local evidence: the scores, the order, the stores and the command."""

import json
import math
import statistics
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from exact_descriptors import exact_retrieval
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.artifact.rankings import Rankings
from landmark.error import UserError
from landmark.rerank import AlphaQE, Spatial
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.stores import Stores
from landmark.search import Flat
from landmark.verify import Verification

seeds = st.integers(0, 10**6)


class Tables:
    """A verifier whose score of a pair is looked up; counts its calls."""

    def __init__(self, scores, features="drawn"):
        self.scores, self.features, self.calls = scores, features, []

    def __call__(self, a, b):
        self.calls.append((a.number, b.number))
        none = np.empty((0, 2), np.int64)
        score = float(self.scores[a.number, b.number])
        return Verification(score, 0, none, np.empty(0, bool), None)


def numbered(count):
    return [SimpleNamespace(number=number, size=(9, 9)) for number in range(count)]


def with_local(retrieval: Retrieval, name="drawn") -> Retrieval:
    return replace(
        retrieval,
        query_local={name: numbered(len(retrieval.query))},
        gallery_local={name: numbered(len(retrieval.gallery))},
    )


@given(
    seed=seeds,
    gallery=st.integers(1, 30),
    k=st.integers(1, 35),
    top=st.integers(1, 40),
    weight=st.sampled_from([0.01, 0.3, 2.0]),
)
@settings(max_examples=60, deadline=None)
def test_scores_are_cosine_plus_weight_times_capped_evidence(seed, gallery, k, top, weight):
    before = with_local(exact_retrieval(seed, 4, gallery, k))
    tables = np.random.default_rng(seed).normal(0, 40, (2, 4, gallery)).round(1)
    one, other = Tables(tables[0]), Tables(tables[1])
    after = Spatial(
        {"one": one, "other": other},
        {"one": weight, "other": 0.1},
        {"one": 50, "other": 7},
        top=top,
    )(before)
    found = min(k, gallery)
    for query in range(4):
        wanted = []
        for place in range(min(top, found)):
            row = before.rows[query, place]
            cosine = float(before.query[query].astype("f8") @ before.gallery[row].astype("f8"))
            first, second = tables[:, query, row]
            score = cosine + weight * min(max(first, 0), 50) / 50 + 0.1 * min(max(second, 0), 7) / 7
            wanted.append((score, row))
        ranked = sorted(wanted, key=lambda pair: -pair[0])
        assert set(after.rows[query, : len(ranked)]) == {row for _, row in ranked}
        by_row = {row: score for score, row in ranked}
        scores = [by_row[row] for row in after.rows[query, : len(ranked)]]
        np.testing.assert_allclose(after.scores[query, : len(ranked)], scores, atol=1e-5)
        np.testing.assert_array_equal(
            after.rows[query, len(ranked) :], before.rows[query, len(ranked) :]
        )
    is_pad = after.rows < 0
    assert (is_pad == (before.rows < 0)).all()
    assert np.isneginf(after.scores[is_pad]).all()
    assert np.isfinite(after.scores[~is_pad]).all()
    assert (after.scores[:, 1:] <= after.scores[:, :-1]).all()
    # Each pair once, and no pair beyond the top.
    assert len(one.calls) == len(set(one.calls)) == 4 * min(top, found)


def spread_of(values):
    median = statistics.median(values)
    deviation = statistics.median(abs(value - median) for value in values)
    return 1.4826 * deviation or statistics.pstdev(values)


@given(
    seed=seeds,
    gallery=st.integers(1, 30),
    k=st.integers(1, 35),
    top=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
)
@settings(max_examples=60, deadline=None)
def test_without_caps_evidence_is_what_exceeds_the_lower_half(seed, gallery, k, top, scale):
    before = with_local(exact_retrieval(seed, 4, gallery, k))
    tables = scale * np.random.default_rng(seed).normal(0, 3, (2, 4, gallery))
    weights = {"one": 1.5, "other": 0.2}
    verify = {name: Tables(table) for name, table in zip(weights, tables, strict=True)}
    after = Spatial(verify, weights, deviations=1.5, top=top)(before)
    top, found = min(top, before.rows.shape[1]), min(k, gallery)

    def results(first, last):
        """Return queries, gallery rows and cosines of the results in these places."""
        pairs = [(q, int(r)) for q in range(4) for r in before.rows[q, first:last] if r >= 0]
        return [(q, r, float(before.query[q] @ before.gallery[r])) for q, r in pairs]

    lower = results(top // 2, top)
    wanted = {(q, r): cosine for q, r, cosine in results(0, top)}
    unit = spread_of([cosine for *_, cosine in lower]) if lower else 0
    for name, table in zip(weights, tables, strict=True):
        of_lower = [float(np.float32(table[q, r])) for q, r, _ in lower]
        if not lower:
            continue
        spread = spread_of(of_lower) or 1.0
        threshold = statistics.median(of_lower) + 1.5 * spread
        for q, r in wanted:
            excess = max(table[q, r] - threshold, 0) / spread
            wanted[q, r] += weights[name] * unit * math.log(1 + excess)
    for q in range(4):
        for r, score in zip(after.rows[q, :top], after.scores[q, :top], strict=True):
            assert r < 0 or score == pytest.approx(wanted[q, int(r)], abs=1e-4)
        scores = after.scores[q, : min(top, found)]
        assert (np.diff(scores) <= 0).all()


def test_evidence_without_caps_does_not_depend_on_the_unit_of_the_score():
    before = with_local(exact_retrieval(3, 4, 30, 20))
    table = np.random.default_rng(3).normal(0, 1, (4, 30))
    one, other = (
        Spatial({"a": Tables(scale * table + shift)}, {"a": 1.0})(before)
        for scale, shift in ((1, 0), (50, -7))
    )
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_the_rest_keeps_its_scores_where_they_are_not_above_the_top():
    before = with_local(exact_retrieval(0, 3, 20, 12))
    after = Spatial({"a": Tables(np.ones((3, 20)))}, {"a": 1.0}, {"a": 1.0}, top=5)(before)
    np.testing.assert_array_equal(after.scores[:, 5:], before.scores[:, 5:])
    np.testing.assert_allclose(after.scores[:, :5], before.scores[:, :5] + 1, rtol=1e-6)


def test_scores_of_another_scale_below_the_top_are_shifted_below_it():
    before = with_local(exact_retrieval(0, 3, 20, 12))
    before = before.with_ranking(before.rows, before.scores + 50)  # as a diffusion may give
    after = Spatial({"a": Tables(np.ones((3, 20)))}, {"a": 1.0}, {"a": 1.0}, top=5)(before)
    assert (after.scores[:, 1:] <= after.scores[:, :-1]).all()
    np.testing.assert_array_equal(after.rows[:, 5:], before.rows[:, 5:])
    gaps = np.diff(before.scores[:, 5:], axis=1)
    np.testing.assert_allclose(np.diff(after.scores[:, 5:], axis=1), gaps, atol=1e-5)


def test_it_chains_before_and_after_other_rerankers():
    before = with_local(exact_retrieval(1, 5, 30, 12))
    spatial = Spatial({"a": Tables(np.eye(5, 30))}, {"a": 2.0}, {"a": 1.0}, top=30)
    for chain in ([AlphaQE(n=3), spatial], [spatial, AlphaQE(n=3)], [spatial, spatial]):
        after = before
        for step in chain:
            after = step(after)
        assert (after.scores[:, 1:] <= after.scores[:, :-1]).all()
        assert all(len(set(row)) == 12 for row in after.rows.tolist())
    expanded = AlphaQE(n=3)(before)
    after = spatial(expanded)
    cosines = expanded.query @ expanded.gallery.T + 2 * np.eye(5, 30)
    wanted = np.take_along_axis(cosines, after.rows, 1)
    np.testing.assert_allclose(after.scores, wanted, atol=1e-5)


def test_a_verifier_of_weight_0_needs_no_local_features():
    zero = Tables(np.zeros((3, 9)), features="missing")
    spatial = Spatial(
        {"a": Tables(np.zeros((3, 9))), "b": zero}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0}
    )
    assert spatial.needs_local == ["drawn"]
    before = with_local(exact_retrieval(0, 3, 9, 5))
    np.testing.assert_array_equal(spatial(before).rows, before.rows)
    assert not zero.calls


@pytest.mark.parametrize(
    ("weights", "caps", "words"),
    [
        ({"a": -1.0}, {"a": 1.0}, r"weights\.a=-1\.0 is not valid"),
        ({"a": 1.0}, {"a": 0.0}, r"caps\.a=0\.0 is not valid"),
        ({"b": 1.0}, {"a": 1.0}, "verify has a, but weights has b"),
        ({"a": 1.0}, {}, "verify has a, but caps has none"),
        ({"a": 0.0}, {"a": 1.0}, r"every weight is 0\. Pass a weights\.a"),
    ],
)
def test_wrong_weights_and_caps_are_refused(weights, caps, words):
    with pytest.raises(UserError, match=words):
        Spatial({"a": Tables(np.zeros((1, 1)))}, weights, caps)


def test_a_retrieval_without_the_local_features_is_refused():
    spatial = Spatial({"a": Tables(np.zeros((3, 9)))}, {"a": 1.0}, {"a": 1.0})
    with pytest.raises(UserError, match="no local features 'drawn'"):
        spatial(exact_retrieval(0, 3, 9, 5))


def drawn_features(random, count):
    return LocalFeatures(
        keypoints=random.uniform(0, 90, (count, 2)).astype("f4"),
        descriptors=random.integers(0, 255, (count, 16)).astype(np.uint8),
        scores=np.ones(count, "f4"),
        size=(100, 100),
        scales=np.full(count, 4, "f4"),
        angles=np.zeros(count, "f4"),
    )


def write_local(path, photos, **recorded):
    store = DescriptorStore.open(path)
    with LocalFeatureWriter.writing(store, "rootsift", dim=16, **recorded) as writer:
        for photo in photos:
            writer.append(photo)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write a query store and a gallery in which photo 3 * q shows what query q shows.

    Query 3 has no local features; all descriptors are nearly equal, so the search knows little.
    """
    folder = tmp_path_factory.mktemp("stores")
    random = np.random.default_rng(5)
    for name, count in (("query", 4), ("gallery", 12)):
        vectors = (np.eye(1, 8) + 0.05 * random.standard_normal((count, 8))).astype("f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        landmarks = [f"place {i}" if name == "query" else f"place {i // 3}" for i in range(count)]
        ids = [f"{name}{i}" for i in range(count)]
        DescriptorStore.write(folder / name, ids, vectors, landmarks)
    shown = [drawn_features(random, 20 if i < 3 else 0) for i in range(4)]
    moved = [replace(photo, keypoints=photo.keypoints + 5) for photo in shown]
    others = [drawn_features(random, 20) for _ in range(12)]
    write_local(folder / "query", shown, top_k=20)
    gallery = [others[i] if i % 3 else moved[i // 3] for i in range(12)]
    write_local(folder / "gallery", gallery, top_k=20)
    return folder


SIFT_ALONE = ("rerank=[spatial]", "rerank.spatial.weights.patches=0")


def test_the_command_raises_the_photos_that_match(rerank, world, tmp_path):
    output = tmp_path / "out"
    arguments = f"query={world / 'query'}", f"gallery={world / 'gallery'}"
    status, printed, errors = rerank(*arguments, *SIFT_ALONE, f"output={output}")
    assert (status, errors) == (0, "")
    assert "spatial " in printed
    rankings = Rankings.open(output)
    assert rankings.rows[:3, 0].tolist() == [0, 3, 6]
    search = Stores.open(world / "query", world / "gallery").search(Flat(), 12)
    # A query without features keeps its ranking and its cosines.
    np.testing.assert_array_equal(rankings.rows[3], search.rows[3])
    np.testing.assert_allclose(rankings.scores[3], search.scores[3], atol=1e-6)
    step = json.loads((output / "meta.json").read_text())["steps"][1]
    assert step["weights"] == {"patches": 0, "rootsift": step["weights"]["rootsift"]}
    page = (output / "report.html").read_text()
    assert page.count('<button class="matches"') == page.count(" popover>") == 4 * 10
    assert ">20 matches</button>" in page


def test_missing_local_features_are_named_before_the_search(rerank, world, tmp_path):
    bare = tmp_path / "bare"
    DescriptorStore.write(bare, ["x"], np.eye(1, 8, dtype="f4"))
    status, printed, errors = rerank(f"query={bare}", f"gallery={world / 'gallery'}", *SIFT_ALONE)
    assert (status, printed) == (2, "")
    assert errors.startswith(f"error: {bare} has no local features 'rootsift'")
    assert "local=rootsift" in errors
    assert errors.count("\n") == 1


def test_local_features_of_two_settings_are_refused(rerank, world, tmp_path):
    other = tmp_path / "other"
    DescriptorStore.write(other, ["x"], np.eye(1, 8, dtype="f4"))
    write_local(other, [drawn_features(np.random.default_rng(0), 3)], top_k=3)
    arguments = f"query={other}", f"gallery={world / 'gallery'}", *SIFT_ALONE
    status, _, errors = rerank(*arguments, "output=out")
    assert status == 2
    assert f"{other} has local features 'rootsift' with top_k 3, and " in errors
    assert errors.count("\n") == 1
    assert rerank(*arguments, "output=out", "allow_mixed=true")[0] == 0

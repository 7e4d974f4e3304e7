"""k-reciprocal, SuperGlobal, decayed expansion and rank fusion against naive loops."""

from dataclasses import replace

import numpy as np
import pytest
from exact_descriptors import cosines_of, exact_retrieval, exact_unit, nearest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.rankings import Rankings
from landmark.error import UserError
from landmark.rerank import AQEDecay, KReciprocal, RankFusion, SuperGlobal, k_reciprocal
from landmark.rerank.retrieval import Retrieval
from landmark.search import Flat

seeds = st.integers(0, 10**6)


def naive_k_reciprocal(query, gallery, k1, k2, lambda_value):
    """The released code over all N x N distances."""
    photos = np.vstack([query, gallery])
    cosines = cosines_of(photos, photos)
    distances = np.maximum(2 - 2 * cosines, 0)
    distances = distances / np.maximum(distances.max(axis=1, keepdims=True), 1e-12)
    rank = nearest(cosines, len(photos), own=True)

    def reciprocal(i, k):
        return [j for j in rank[i, : k + 1] if i in rank[j, : k + 1]]

    encoding = np.zeros(cosines.shape)
    for i in range(len(photos)):
        members = expanded = reciprocal(i, k1)
        for j in members:
            more = reciprocal(j, int(np.around(k1 / 2)))
            if len(np.intersect1d(more, members)) > 2 / 3 * len(more):
                expanded = np.union1d(expanded, more).astype(int)
        weights = np.exp(-distances[i, expanded])
        encoding[i, expanded] = weights / weights.sum()
    encoding = np.array([encoding[rank[i, :k2]].mean(axis=0) for i in range(len(photos))])
    final = np.empty((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            shared = np.minimum(encoding[i], encoding[len(query) + j]).sum()
            jaccard = 1 - shared / (2 - shared)
            final[i, j] = (1 - lambda_value) * jaccard + lambda_value * distances[i, len(query) + j]
    return final


@given(
    seed=seeds,
    gallery=st.integers(1, 40),
    k=st.integers(1, 45),
    k1=st.integers(1, 12),
    k2=st.integers(1, 8),
    lambda_value=st.sampled_from([0.0, 0.3, 0.9]),
)
@settings(max_examples=40, deadline=None)
def test_k_reciprocal_equals_the_computation_over_all_distances(
    seed, gallery, k, k1, k2, lambda_value
):
    before = exact_retrieval(seed, 4, gallery, k)
    wanted = naive_k_reciprocal(before.query, before.gallery, k1, k2, lambda_value)
    after = KReciprocal(k1, k2, lambda_value)(before)
    found = min(k, gallery)
    assert (after.rows[:, found:] == -1).all()
    rows, scores = after.rows[:, :found], after.scores[:, :found]
    assert all(len(set(row)) == found for row in rows.tolist())
    np.testing.assert_allclose(1 - scores, np.take_along_axis(wanted, rows, 1), atol=1e-5)
    np.testing.assert_allclose(1 - scores, np.sort(wanted, axis=1)[:, :found], atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_k_reciprocal_computes_on_the_device_of_the_index(monkeypatch, device):
    photos = exact_unit(np.random.default_rng(0), 4, 30)
    retrieval = Retrieval.from_search(photos[:5], photos[5:], 9, Flat(device))
    named = []
    monkeypatch.setattr(k_reciprocal, "Flat", lambda name: named.append(name) or Flat(name))
    KReciprocal(k1=5)(retrieval)
    assert named == [device]


def naive_superglobal(query, gallery, rows, m, k, beta):
    """Return the scores of the first m rows of one query, as in the released code."""
    first = gallery[rows[:m]].astype("f8")
    cosines = cosines_of(first, first)
    np.fill_diagonal(cosines, np.inf)
    refined = []
    for i in range(len(first)):
        near = np.argsort(-cosines[i], kind="stable")[: k + 1]
        weights = np.array([1.0 if j == i else beta * cosines[i, j] for j in near])
        refined.append((weights[:, None] * first[near]).sum(axis=0) / weights.sum())
    refined = np.array(refined)
    once = refined @ query.astype("f8")
    second = refined[np.argsort(-once, kind="stable")[: k + 1]].max(axis=0)
    return (once + refined @ second) / 2


@given(
    seed=seeds,
    gallery=st.integers(1, 30),
    m=st.integers(1, 35),
    k=st.integers(0, 6),
    beta=st.sampled_from([0.0, 0.15, 0.5]),
    kept=st.integers(1, 40),
)
@settings(max_examples=40, deadline=None)
def test_superglobal_equals_its_definition(seed, gallery, m, k, beta, kept):
    random = np.random.default_rng(seed)
    photos = random.standard_normal((gallery + 3, 6)).astype("f4")
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    kept = max(kept, min(m, gallery))
    before = Retrieval.from_search(photos[:3], photos[3:], kept, Flat())
    after = SuperGlobal(m=m, k=k, beta=beta)(before)
    first = min(m, kept, gallery)
    for i, row in enumerate(after.rows):
        wanted = naive_superglobal(
            before.query[i], before.gallery, before.rows[i, : min(m, gallery)], m, k, beta
        )
        at = dict(zip(before.rows[i], wanted, strict=False))
        np.testing.assert_allclose([at[r] for r in row[:first]], np.sort(wanted)[::-1], atol=1e-4)
        np.testing.assert_allclose(after.scores[i, :first], [at[r] for r in row[:first]], atol=1e-4)
        np.testing.assert_array_equal(row[first:], before.rows[i, first:])
    assert (after.scores[:, 1:] <= after.scores[:, :-1]).all()


def test_superglobal_needs_enough_results():
    few = exact_retrieval(0, 2, 30, 5)
    with pytest.raises(UserError, match=r"superglobal.m=400.*k=5 results.*Pass k=400"):
        SuperGlobal()(few)
    assert SuperGlobal(m=5)(few).rows.shape == (2, 5)


@given(seeds, st.integers(1, 30), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_decayed_expansion_equals_its_definition(seed, gallery, n):
    before = exact_retrieval(seed, 5, gallery, 12)
    after = AQEDecay(n=n)(before)
    for i, query in enumerate(before.query.astype("f8")):
        summed = query.copy()
        for place, row in enumerate(before.rows[i, :n], start=1):
            if row >= 0:
                summed += (n - place) / n * before.gallery[row]
        length = np.linalg.norm(summed)
        if length > 1e-3:
            np.testing.assert_allclose(after.query[i], summed / length, atol=1e-5)
    np.testing.assert_array_equal(
        after.rows, Flat().build(before.gallery).search(after.query, 12)[0]
    )


def naive_fusion(rankings, method, constant, length):
    """Fuse rankings of one query: (rows, scores) each."""
    total: dict[int, float] = {}
    for rows, scores in rankings:
        found = [float(s) for r, s in zip(rows, scores, strict=True) if r >= 0]
        for place, (row, score) in enumerate(zip(rows, scores, strict=True), start=1):
            if row < 0:
                continue
            low, high = min(found), max(found)
            scaled = (float(score) - low) / (high - low) if high > low else 1.0
            points = 1 / (constant + place) if method == "reciprocal_rank" else scaled
            total[row] = total.get(row, 0.0) + points
    order = sorted(total, key=lambda row: -total[row])[:length]
    return order, [total[row] for row in order]


def random_ranking(random, queries, photos, length):
    rows = np.full((queries, length), -1)
    scores = np.full((queries, length), -np.inf)
    for i in range(queries):
        found = int(random.integers(0, min(length, photos) + 1))
        rows[i, :found] = random.permutation(photos)[:found]
        scores[i, :found] = np.sort(random.integers(-8, 9, found) / 8)[::-1]
    return rows, scores


@given(
    seed=seeds,
    photos=st.integers(1, 20),
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    method=st.sampled_from(["reciprocal_rank", "score_sum"]),
    constant=st.sampled_from([0.0, 60.0]),
)
@settings(max_examples=60, deadline=None)
def test_rank_fusion_equals_its_definition(seed, photos, lengths, method, constant):
    random = np.random.default_rng(seed)
    rankings = [random_ranking(random, 3, photos, length) for length in lengths]
    earlier = {f"step{i}": ranking for i, ranking in enumerate(rankings)}
    retrieval = Retrieval(np.ones((3, 2)), np.ones((photos, 2)), *rankings[-1], earlier=earlier)
    after = RankFusion(method=method, constant=constant)(retrieval)
    for i, row in enumerate(after.rows.tolist()):
        wanted, totals = naive_fusion(
            [(rows[i].tolist(), scores[i]) for rows, scores in rankings],
            method,
            constant,
            lengths[-1],
        )
        assert row == wanted + [-1] * (lengths[-1] - len(wanted))
        np.testing.assert_allclose(after.scores[i, : len(wanted)], totals, rtol=1e-6)


def with_ids(retrieval, queries="q", photos="p"):
    ids = [
        np.array([f"{letter}{i}" for i in range(len(rows))])
        for letter, rows in ((queries, retrieval.query), (photos, retrieval.gallery))
    ]
    return replace(retrieval, query_ids=ids[0], gallery_ids=ids[1])


def test_rank_fusion_reads_folders_in_any_order(tmp_path):
    here = with_ids(exact_retrieval(0, 4, 20, 6))
    other = exact_retrieval(1, 4, 20, 6)
    fused = RankFusion()(
        Retrieval(
            here.query,
            here.gallery,
            here.rows,
            here.scores,
            earlier={"a": (other.rows, other.scores), "b": (here.rows, here.scores)},
        )
    )
    queries, photos = (np.random.default_rng(0).permutation(n) for n in (4, 20))
    (tmp_path / "other").mkdir()
    Rankings(
        np.argsort(photos)[other.rows[queries]].astype("i4"),
        other.scores[queries],
        here.query_ids[queries],
        here.gallery_ids[photos],
    ).write_into(tmp_path / "other")
    again = RankFusion(rankings=[str(tmp_path / "other")])(here)
    np.testing.assert_array_equal(again.rows, fused.rows)
    np.testing.assert_allclose(again.scores, fused.scores)


def test_rank_fusion_refuses_inconsistent_rankings(tmp_path):
    plain = exact_retrieval(0, 4, 20, 6)
    here = with_ids(plain)
    for name, ids in (("queries", ("x", "p")), ("photos", ("q", "x"))):
        other = with_ids(plain, *ids)
        (tmp_path / name).mkdir()
        Rankings(plain.rows, plain.scores, other.query_ids, other.gallery_ids).write_into(
            tmp_path / name
        )
    for fusion, retrieval, words in (
        (RankFusion(), here, "nothing to fuse"),
        (RankFusion(steps=["egt"]), here.remembered("search"), "egt is not an earlier.*search"),
        (RankFusion(rankings=[str(tmp_path / "queries")]), here, "no ranking for query 'q0'"),
        (RankFusion(rankings=[str(tmp_path / "photos")]), here, "which is not in the gallery"),
        (RankFusion(rankings=[str(tmp_path / "none")]), here, "is not a folder of rankings"),
        (RankFusion(rankings=[str(tmp_path / "photos")]), plain, "matched by ids.*has none"),
    ):
        with pytest.raises(UserError, match=words):
            fusion(retrieval)


class View:
    """A gallery that is not an array, such as stacked stores."""

    def __init__(self, vectors):
        self._vectors = vectors
        self.shape, self.dtype = vectors.shape, vectors.dtype

    def __len__(self):
        return len(self._vectors)

    def __getitem__(self, rows):
        assert isinstance(rows, slice) or (
            isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind == "i"
        )
        return self._vectors[rows]


class SearchOfViews:
    """An exact search that reads a view as one array."""

    device = "cpu"

    def build(self, gallery):
        index = Flat("cpu").build(np.asarray(gallery[: len(gallery)]))
        index.gallery, index.settings = gallery, self
        search = index.search
        whole = np.asarray(gallery[: len(gallery)])

        def search_whole(query, k):
            index.gallery = whole
            try:
                return search(np.asarray(query[: len(query)]), k)
            finally:
                index.gallery = gallery

        index.search = search_whole
        return index


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_a_gallery_may_be_a_half_precision_view(dtype):
    from landmark import rerank

    photos = exact_unit(np.random.default_rng(0), 4, 45).astype(dtype)
    landmarks = np.arange(10) % 3
    for reranker in (
        rerank.AlphaQE(n=3),
        rerank.AQEDecay(n=3),
        rerank.DBA(n=3),
        rerank.TwoStage(),
        rerank.Diffusion(n_trunc=20, kd=5),
        rerank.OnlineDiffusion(kd=5, kq=3),
        rerank.EGT(k=5),
        rerank.KReciprocal(k1=5, k2=3),
        rerank.SuperGlobal(m=10),
    ):
        results = []
        for gallery in (photos[5:35], View(photos[5:35])):
            before = Retrieval.from_search(
                photos[:5], gallery, 12, SearchOfViews(), photos[35:], landmarks
            )
            results.append(reranker(before))
        np.testing.assert_array_equal(results[0].rows, results[1].rows)

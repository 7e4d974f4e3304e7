"""Diffusion and graph traversal against reference results and naive loops over photos."""

import numpy as np
import pytest
from exact_descriptors import check_ranking, cosines_of, exact_retrieval, exact_unit, nearest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import cg

from landmark.rerank import EGT, Diffusion, OnlineDiffusion
from landmark.rerank.retrieval import Retrieval
from landmark.search import Flat
from landmark.search.flat import FlatIndex

seeds = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def expected(shared):
    return np.load(shared / "reference/rerank/expected.npz")


@pytest.fixture(scope="module")
def reference(shared):
    inputs = np.load(shared / "reference/rerank/inputs.npz")
    return Retrieval.from_search(inputs["query"], inputs["gallery"], 100, Flat())


def test_offline_diffusion_equals_the_reference(reference, expected):
    diffusion = Diffusion(n_trunc=100, kd=20, gamma=3, alpha=0.99, iterations=20, rtol=1e-6)
    wanted = expected["diffusion_offline_query_then_gallery"]
    np.testing.assert_allclose(diffusion.offline(reference).toarray(), wanted, atol=1e-5)
    unit = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    found = diffusion(reference)
    check_ranking(found.rows, found.scores, unit[:40] @ unit[40:].T, reference.rows, atol=1e-6)


def test_egt_equals_the_reference(reference, expected):
    for threshold in (0.3, 0.5):
        found = EGT(threshold=threshold, k=30)(reference)
        np.testing.assert_array_equal(found.rows, expected[f"egt_threshold{threshold}_k30"])


def naive_transition(cosines, kd, gamma):
    """Return the normalised affinity (N, N) of mutual neighbours, photo by photo."""
    photos = len(cosines)
    near = [set(row) for row in nearest(cosines, kd, own=True).tolist()]
    affinity = np.zeros((photos, photos))
    for i in range(photos):
        for j in near[i]:
            if j != i and i in near[j]:
                affinity[i, j] = max(cosines[i, j], 0) ** gamma
    degrees = affinity.sum(axis=1) + 1e-12
    return affinity / np.sqrt(degrees[:, None] * degrees[None])


@given(
    seed=seeds,
    gallery=st.integers(1, 40),
    n_trunc=st.integers(1, 30),
    kd=st.integers(2, 12),
    gamma=st.sampled_from([1.0, 3.0]),
    iterations=st.integers(1, 20),
)
@settings(max_examples=30, deadline=None)
def test_offline_diffusion_equals_its_definition(seed, gallery, n_trunc, kd, gamma, iterations):
    before = exact_retrieval(seed, 4, gallery, 8)
    photos = np.vstack([before.query, before.gallery])
    cosines = cosines_of(photos, photos)
    system = np.eye(len(photos)) - 0.9 * naive_transition(cosines, kd, gamma)
    solutions = np.zeros_like(system)
    for i, near in enumerate(nearest(cosines, n_trunc, own=True)):
        start = np.eye(len(near))[0]
        inside = system[np.ix_(near, near)]
        solutions[i, near], _ = cg(inside, start, rtol=1e-6, atol=0, maxiter=iterations)
    diffusion = Diffusion(n_trunc, kd, gamma, alpha=0.9, iterations=iterations)
    np.testing.assert_allclose(diffusion.offline(before).toarray(), solutions, atol=1e-5)
    unit = solutions / np.linalg.norm(solutions, axis=1, keepdims=True)
    after = diffusion(before)
    check_ranking(after.rows, after.scores, unit[:4] @ unit[4:].T, before.rows)


@given(
    seed=seeds,
    gallery=st.integers(1, 40),
    kd=st.integers(2, 12),
    kq=st.integers(1, 8),
    k=st.integers(1, 12),
)
@settings(max_examples=30, deadline=None)
def test_online_diffusion_equals_its_definition(seed, gallery, kd, kq, k):
    before = exact_retrieval(seed, 4, gallery, k)
    transition = naive_transition(cosines_of(before.gallery, before.gallery), kd, 3)
    system = np.eye(gallery) - 0.9 * transition
    asked = cosines_of(before.query, before.gallery)
    wanted = np.zeros((4, gallery))
    for query, near in enumerate(nearest(asked, kq, own=False)):
        start = np.zeros(gallery)
        start[near] = np.maximum(asked[query, near], 0) ** 3
        if start.any():
            wanted[query], _ = cg(system, start, rtol=1e-6, atol=0, maxiter=20)
    after = OnlineDiffusion(kd=kd, kq=kq, alpha=0.9)(before)
    check_ranking(after.rows, after.scores, wanted, before.rows)


def naive_egt(query, near_query, near, cosines, threshold, length):
    """Rank one query by the released loop; `near` returns neighbours and cosines of a photo."""
    ranked: list[int] = []
    candidates: dict[int, float] = {}

    def explore(photos, values):
        for photo, value in zip(photos, values, strict=True):
            if photo not in ranked:
                candidates[photo] = max(value, candidates.get(photo, 0))

    def exploit():
        order = sorted(candidates, key=lambda photo: -candidates[photo])
        good = [photo for photo in order if candidates[photo] > threshold] or order[:1]
        for photo in good[: length - len(ranked)]:
            ranked.append(photo)
            del candidates[photo]
        return good[:length]

    explore(near_query, cosines[0][query][near_query])
    new = exploit()
    while len(ranked) < length and new:
        for photo in new:
            explore(near[photo], cosines[1][photo][near[photo]])
        new = exploit()
    return ranked


def check_egt(before, threshold, k):
    asked, among = (cosines_of(photos, before.gallery) for photos in (before.query, before.gallery))
    near_query = nearest(asked, k, own=False).tolist()
    near = nearest(among, k, own=False).tolist()
    after = EGT(threshold=threshold, k=k)(before)
    for query, row in enumerate(after.rows.tolist()):
        length = len(row)
        wanted = naive_egt(query, near_query[query], near, (asked, among), threshold, length)
        rest = [r for r in before.rows[query] if r >= 0 and r not in wanted]
        wanted = (wanted + rest)[:length]
        assert row == wanted + [-1] * (length - len(wanted))
        assert (np.diff(after.scores[query][: len(wanted)]) <= 0).all()


@given(
    seed=seeds,
    gallery=st.integers(1, 40),
    k=st.integers(1, 12),
    threshold=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0]),
)
@settings(max_examples=40, deadline=None)
def test_egt_breaks_ties_like_the_released_loop(seed, gallery, k, threshold):
    check_egt(exact_retrieval(seed, 3, gallery, gallery + 2), threshold, k)


@given(
    seed=seeds,
    gallery=st.integers(1, 40),
    k=st.integers(1, 12),
    length=st.integers(1, 12),
    threshold=st.sampled_from([0.0, 0.4, 0.8, 2.0]),
)
@settings(max_examples=40, deadline=None)
def test_egt_equals_the_released_loop(seed, gallery, k, length, threshold):
    # Integers with distinct products: no ties and no rounding.
    random = np.random.default_rng(seed)
    photos = random.integers(-(2**10), 2**10, (gallery + 3, 6)).astype("f4") / 2**11
    before = Retrieval.from_search(photos[:3], photos[3:], length, Flat(block_rows=16))
    values = cosines_of(photos, before.gallery)
    if len(np.unique(values)) == values.size - gallery * (gallery - 1) // 2:
        check_egt(before, threshold, k)


def test_egt_searches_only_for_visited_photos(monkeypatch):
    random = np.random.default_rng(0)
    photos = exact_unit(random, 30, 400)
    searched, search = [], FlatIndex.search

    def counting(index, query, k):
        searched.append(len(query))
        return search(index, query, k)

    monkeypatch.setattr(FlatIndex, "search", counting)
    few = Retrieval.from_search(photos[:2], photos[2:], 10, Flat())
    found = EGT(threshold=0.9, k=20)(few)
    assert sum(searched[2:]) <= 2 * 10
    many = Retrieval.from_search(photos[:60], photos[2:], 10, Flat())
    np.testing.assert_array_equal(EGT(threshold=0.9, k=20)(many).rows[:2], found.rows)


def test_duplicate_photos_start_from_themselves():
    copies = np.repeat(exact_unit(np.random.default_rng(0), 1, 3, flips=0)[:1], 12, axis=0)
    before = Retrieval.from_search(copies[:2], copies[2:], 5, Flat())
    found = Diffusion(n_trunc=4, kd=3).offline(before)
    assert (found.diagonal() >= 1).all()

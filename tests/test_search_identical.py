"""Graph indexes of galleries with identical vectors, against exact search."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search import HNSW, Factory, Flat, faiss_index
from landmark.search.faiss_index import FaissSearch
from landmark.search.identical import find_identical


def unit_rows(seed, rows, dim=16):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (np.round(256 * vectors) / 256).astype("f4")  # inner products are exact in float32


BASE = unit_rows(0, 300)
GALLERY = np.concatenate([BASE[:150], np.repeat(BASE[:1], 2000, 0), BASE[150:], BASE[:50]])
QUERY = np.concatenate([unit_rows(1, 20), BASE[:5]])
GRAPHS = [
    HNSW(ef_search=400),
    HNSW(ef_search=400, storage="sq8", refine=4),
    Factory("HNSW32", parameters={"efSearch": 400}),
    Factory("HNSW32,Flat,RFlat", parameters={"efSearch": 400, "k_factor_rf": 1}),
    Factory("RR16,HNSW32", parameters={"efSearch": 400}, refine=1),
    Factory("NSG32", refine=20),
]


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(0, 60),
    dtype=st.sampled_from(["f2", "f4", "f8"]),
    cut=st.integers(0, 60),
)
@settings(max_examples=60, deadline=None)
def test_groups_hold_the_rows_of_equal_bytes(seed, rows, dtype, cut):
    random = np.random.default_rng(seed)
    gallery = random.integers(-1, 2, (rows, 3)).astype(dtype)
    stacked = StackedVectors([gallery[:cut], gallery[cut:]])
    expected = {}
    for row, vector in enumerate(gallery):
        expected.setdefault(vector.tobytes(), []).append(row)
    groups = find_identical(stacked)
    if len(expected) == rows:
        assert groups is None
        return
    members = np.split(groups.order, groups.starts[1:-1])
    assert [group.tolist() for group in members] == list(expected.values())
    assert groups.first.tolist() == [group[0] for group in expected.values()]


@pytest.mark.parametrize(
    "search",
    GRAPHS,
    ids=lambda s: getattr(s, "description", s.storage if isinstance(s, HNSW) else ""),
)
@pytest.mark.parametrize("k", [1, 20, 2300])
def test_a_graph_of_many_identical_vectors_equals_exact_search(search, k):
    rows, scores = search.build(GALLERY).search(QUERY, k)
    expected, expected_scores = Flat(device="cpu").build(GALLERY).search(QUERY, k)
    agreeing = (rows == expected).mean()
    assert agreeing > 0.97, agreeing
    np.testing.assert_array_equal(rows[-5:, :1], expected[-5:, :1])
    top = slice(None, min(k, 20))
    np.testing.assert_allclose(scores[-5:, top], expected_scores[-5:, top], atol=1e-3)
    for line in rows:
        assert len(set(line[line >= 0].tolist())) == (line >= 0).sum()


def test_a_gallery_of_one_vector_returns_all_rows_in_order():
    gallery = np.repeat(BASE[:1], 500, 0)
    rows, scores = HNSW().build(gallery).search(QUERY[:3], 400)
    np.testing.assert_array_equal(rows, np.tile(np.arange(400), (3, 1)))
    np.testing.assert_allclose(scores, np.tile(QUERY[:3] @ BASE[:1].T, (1, 400)), atol=1e-6)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_saved_graph_keeps_and_extends_its_groups(tmp_path, stacked):
    path, half = tmp_path / "index", GALLERY[:1000]
    search = HNSW(ef_search=400, index=str(path))
    search.build(half)
    for gallery in (half, GALLERY, np.concatenate([GALLERY, GALLERY[:3]])):
        given_gallery = StackedVectors([gallery[:500], gallery[500:]]) if stacked else gallery
        rows, _ = search.build(given_gallery).search(QUERY, 50)
        expected, _ = Flat(device="cpu").build(gallery).search(QUERY, 50)
        assert (rows == expected).mean() > 0.97
        assert json.loads((path / "index.json").read_text())["gallery"]["rows"] == len(gallery)
        reopened, _ = search.build(given_gallery).search(QUERY, 50)
        np.testing.assert_array_equal(reopened, rows)


def test_a_saved_graph_that_holds_identical_vectors_is_refused(tmp_path, monkeypatch):
    """Earlier versions added all rows."""
    path = str(tmp_path / "index")
    with monkeypatch.context() as earlier:
        earlier.setattr(faiss_index, "find_identical", lambda _: None)
        HNSW(index=path).build(GALLERY)
        HNSW(index=f"{path}2").build(BASE)
    with pytest.raises(UserError, match=r"did not join 2,050 identical vectors.*Remove the folder"):
        HNSW(index=path).build(GALLERY)
    rows, _ = HNSW(index=f"{path}2").build(BASE).search(QUERY, 5)  # without identical ones
    np.testing.assert_array_equal(rows, Flat(device="cpu").build(BASE).search(QUERY, 5)[0])


def test_only_graphs_join_identical_vectors(monkeypatch):
    monkeypatch.setattr(faiss_index, "find_identical", lambda _: pytest.fail("not a graph"))
    for description in ("IVF4,Flat", "SQ8", "IVF4_HNSW8,Flat"):
        assert isinstance(Factory(description), FaissSearch)
        Factory(description).build(GALLERY)

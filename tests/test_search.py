"""Flat search against a full sort in numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.mistake import UserMistake
from landmark.search import Flat


def whole_numbers(seed: int, rows: int, values: int) -> np.ndarray:
    """Vectors whose inner products are exact in float32, with many ties."""
    return np.random.default_rng(seed).integers(-values, values + 1, (rows, 5)).astype("f4")


def sorted_in_full(query, gallery, k):
    """Every product, by falling score, then by row."""
    products = query.astype("f8") @ gallery.astype("f8").T
    rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(products, rows, axis=1)
    lacking = ((0, 0), (0, k - rows.shape[1]))
    return np.pad(rows, lacking, constant_values=-1), np.pad(
        scores, lacking, constant_values=-np.inf
    )


@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(0, 30),
    rows=st.integers(0, 300),
    k=st.integers(1, 130),
    values=st.sampled_from([0, 1, 3, 40]),
    dtype=st.sampled_from(["f4", "f2"]),
    block_rows=st.sampled_from([1, 7, 64, 1000]),
)
@settings(max_examples=150, deadline=None)
def test_flat_is_a_full_sort_ties_by_row(seed, queries, rows, k, values, dtype, block_rows):
    gallery = whole_numbers(seed, rows, values).astype(dtype)
    query = whole_numbers(seed + 1, queries, values)
    expected_rows, expected_scores = sorted_in_full(query, gallery, k)
    found, scores = Flat(device="cpu", block_rows=block_rows)(query, gallery, k)
    assert found.dtype == np.int32
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(found, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_flat_equals_the_reference(shared):
    inputs = np.load(shared / "reference/rerank/inputs.npz")
    expected = np.load(shared / "reference/rerank/expected.npz")
    rows, scores = Flat()(inputs["query"], inputs["gallery"], 100)
    np.testing.assert_array_equal(rows, expected["knn_index"])
    np.testing.assert_allclose(scores, expected["knn_similarity"], atol=1e-6)


def test_a_memory_mapped_half_precision_gallery_gives_the_same(tmp_path):
    random = np.random.default_rng(0)
    gallery = random.standard_normal((500, 16)).astype("f2")
    np.save(tmp_path / "vectors.npy", gallery)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    query = random.standard_normal((9, 16)).astype("f2")
    rows, scores = Flat(block_rows=128)(query, mapped, 20)
    expected_rows, expected_scores = sorted_in_full(query, gallery, 20)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(UserMistake, match="device=tpu"):
        Flat(device="tpu")
    with pytest.raises(ValueError, match="do not fit"):
        Flat()(np.ones((2, 3), "f4"), np.ones((2, 4), "f4"), 1)
    with pytest.raises(ValueError, match="k=0"):
        Flat()(np.ones((2, 3), "f4"), np.ones((2, 3), "f4"), 0)


def test_cuda_without_a_gpu_says_so():
    faiss = pytest.importorskip("faiss")
    if faiss.get_num_gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserMistake, match="sees no GPU"):
        Flat(device="cuda")(np.ones((2, 3), "f4"), np.ones((2, 3), "f4"), 1)

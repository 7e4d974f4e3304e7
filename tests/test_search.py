"""Exact searches against a full sort written with numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search import ExactTorch, Flat, gpu


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


def searches(block_rows: int) -> list:
    return [
        Flat(device="cpu", block_rows=block_rows),
        ExactTorch(device="cpu", block_rows=block_rows, block_queries=1 + block_rows % 10),
    ]


@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(0, 30),
    rows=st.integers(0, 300),
    k=st.integers(1, 130),
    values=st.sampled_from([0, 1, 3, 40]),
    dtype=st.sampled_from(["f4", "f2", "f8"]),
    block_rows=st.sampled_from([1, 7, 64, 1000]),
    which=st.sampled_from([0, 1]),
    cuts=st.lists(st.integers(0, 300), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_an_exact_search_is_a_full_sort_ties_by_row(
    seed, queries, rows, k, values, dtype, block_rows, which, cuts
):
    gallery = whole_numbers(seed, rows, values).astype(dtype)
    query = whole_numbers(seed + 1, queries, values)
    expected_rows, expected_scores = sorted_in_full(query, gallery, k)
    if cuts:
        gallery = StackedVectors(np.split(gallery, sorted(min(cut, rows) for cut in cuts)))
    found, scores = searches(block_rows)[which](query, gallery, k)
    assert found.dtype == np.int32
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(found, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("search", searches(65536), ids=lambda search: type(search).__name__)
def test_an_exact_search_equals_the_reference(shared, search):
    inputs = np.load(shared / "reference/rerank/inputs.npz")
    expected = np.load(shared / "reference/rerank/expected.npz")
    rows, scores = search(inputs["query"], inputs["gallery"], 100)
    np.testing.assert_array_equal(rows, expected["knn_index"])
    np.testing.assert_allclose(scores, expected["knn_similarity"], atol=1e-6)


@pytest.mark.parametrize("search", searches(128), ids=lambda search: type(search).__name__)
def test_a_memory_mapped_half_precision_gallery_gives_the_same(tmp_path, search):
    random = np.random.default_rng(0)
    gallery = random.standard_normal((500, 16)).astype("f2")
    np.save(tmp_path / "vectors.npy", gallery)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    query = random.standard_normal((9, 16)).astype("f2")
    rows, scores = search(query, mapped, 20)
    expected_rows, expected_scores = sorted_in_full(query, gallery, 20)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


def test_half_precision_is_read_to_the_last_bit():
    from landmark.search.blocks import float32_blocks

    every = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 16)
    blocks = [block.copy() for _, block in float32_blocks(every, 1000)]
    np.testing.assert_array_equal(np.concatenate(blocks), every.astype(np.float32))


def test_what_cannot_be_searched_is_refused():
    for search in (Flat, ExactTorch):
        with pytest.raises(ValueError, match="do not fit"):
            search()(np.ones((2, 3), "f4"), np.ones((2, 4), "f4"), 1)
        with pytest.raises(ValueError, match="k=0"):
            search()(np.ones((2, 3), "f4"), np.ones((2, 3), "f4"), 0)
        with pytest.raises(UserError, match="block_rows=0"):
            search(block_rows=0)
    with pytest.raises(UserError, match="device=tpu"):
        Flat(device="tpu")
    with pytest.raises(UserError, match="device=tpu9: torch cannot"):
        ExactTorch(device="tpu9")(np.ones((2, 3), "f4"), np.ones((2, 3), "f4"), 1)


def test_cuda_without_a_gpu_says_so():
    faiss = pytest.importorskip("faiss")
    if faiss.get_num_gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="sees no GPU"):
        Flat(device="cuda")(np.ones((2, 3), "f4"), np.ones((2, 3), "f4"), 1)


@pytest.fixture
def three_gpus(monkeypatch):
    """Pretends that faiss sees three GPUs; what runs there runs on the CPU. Gives who did what."""
    import faiss

    asked = []

    def on_cpu(resources, query, vectors, k, *, metric, device, vectorsMemoryLimit):
        asked.append((device, len(vectors)))
        return faiss.knn(query, vectors, k, metric=metric)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 3)
    monkeypatch.setattr(faiss, "knn_gpu", on_cpu)
    monkeypatch.setattr(gpu, "resources", lambda number: number)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return asked


@pytest.mark.parametrize(
    ("device", "rows", "expected"),
    [
        ("cuda", 100, {(0, 33), (1, 33), (2, 34)}),
        ("auto", 2, {(1, 1), (2, 1)}),
        ("cuda:1", 100, {(1, 100)}),
    ],
)
def test_several_gpus_share_the_gallery(three_gpus, device, rows, expected):
    query, gallery = whole_numbers(0, 6, 2), whole_numbers(1, rows, 2)
    found, scores = Flat(device=device)(query, gallery, 9)
    expected_rows, expected_scores = sorted_in_full(query, gallery, 9)
    np.testing.assert_array_equal(found, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert set(three_gpus) == expected


def test_each_process_of_a_machine_takes_one_gpu(three_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert gpu.gpus_of("auto") == [2]
    assert gpu.gpus_of("cpu") == []
    with pytest.raises(UserError, match="sees 3 GPUs"):
        gpu.gpus_of("cuda:3")

"""Exact searches against a full sort in numpy."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search import ExactTorch, Flat, flat, gpu
from landmark.search.index import DeferredIndex, local_torch_device
from landmark.search.product_scan import ProductScan


def whole_numbers(seed: int, rows: int, values: int) -> np.ndarray:
    """Return vectors whose inner products are exact in float32, with many ties."""
    return np.random.default_rng(seed).integers(-values, values + 1, (rows, 5)).astype("f4")


def full_sort(query, gallery, k):
    """Sort all products by decreasing score, then by row."""
    products = query.astype("f8") @ gallery.astype("f8").T
    rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(products, rows, axis=1)
    lacking = ((0, 0), (0, k - rows.shape[1]))
    return np.pad(rows, lacking, constant_values=-1), np.pad(
        scores, lacking, constant_values=-np.inf
    )


def named(search) -> str:
    return "-".join([type(search).__name__, search.engine, search.precision])


def searches(block_rows: int) -> list:
    torch = {"device": "cpu", "block_rows": block_rows, "block_queries": 1 + block_rows % 10}
    return [
        Flat(device="cpu", block_rows=block_rows),
        Flat(device="cpu", block_rows=block_rows, engine="faiss"),
        *(ExactTorch(**torch, precision=precision) for precision in ("auto", "bf16", "16", "32")),
    ]


@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(0, 30),
    rows=st.integers(0, 300),
    k=st.integers(1, 130),
    values=st.sampled_from([0, 1, 3, 40]),
    dtype=st.sampled_from(["f4", "f2", "f8"]),
    block_rows=st.sampled_from([1, 7, 64, 1000]),
    which=st.sampled_from(range(6)),
    cuts=st.lists(st.integers(0, 300), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_an_exact_search_equals_a_full_sort_with_ties_by_row(
    seed, queries, rows, k, values, dtype, block_rows, which, cuts
):
    gallery = whole_numbers(seed, rows, values).astype(dtype)
    query = whole_numbers(seed + 1, queries, values)
    expected_rows, expected_scores = full_sort(query, gallery, k)
    if cuts:
        gallery = StackedVectors(np.split(gallery, sorted(min(cut, rows) for cut in cuts)))
    found, scores = searches(block_rows)[which].build(gallery).search(query, k)
    assert found.dtype == np.int32
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(found, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("search", searches(65536), ids=named)
def test_an_exact_search_equals_the_reference(shared, search):
    inputs = np.load(shared / "reference/rerank/inputs.npz")
    expected = np.load(shared / "reference/rerank/expected.npz")
    rows, scores = search.build(inputs["gallery"]).search(inputs["query"], 100)
    np.testing.assert_array_equal(rows, expected["knn_index"])
    np.testing.assert_allclose(scores, expected["knn_similarity"], atol=1e-6)


@pytest.mark.parametrize("search", searches(128), ids=named)
def test_a_memory_mapped_half_precision_gallery_returns_the_same(tmp_path, search):
    random = np.random.default_rng(0)
    gallery = random.standard_normal((500, 16)).astype("f2")
    np.save(tmp_path / "vectors.npy", gallery)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    query = random.standard_normal((9, 16)).astype("f2")
    rows, scores = search.build(mapped).search(query, 20)
    expected_rows, expected_scores = full_sort(query, gallery, 20)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


def test_half_precision_is_read_exactly():
    from landmark.search.blocks import float32_blocks

    every = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 16)
    blocks = [block.copy() for _, block in float32_blocks(every, 1000)]
    np.testing.assert_array_equal(np.concatenate(blocks), every.astype(np.float32))


def test_invalid_arrays_are_refused():
    for search in (Flat, ExactTorch):
        index = search().build(np.ones((2, 3), "f4"))
        with pytest.raises(ValueError, match="do not match"):
            index.search(np.ones((2, 4), "f4"), 1)
        with pytest.raises(ValueError, match="k=0"):
            index.search(np.ones((2, 3), "f4"), 0)
        with pytest.raises(UserError, match=r"block_rows=0 is not valid\. Pass a whole number > 0"):
            search(block_rows=0)
        with pytest.raises(UserError, match=r"device=tpu9 is not valid\. Pass auto, cpu, mps"):
            search(device="tpu9")
    with pytest.raises(UserError, match="device=mps: faiss does not support MPS"):
        Flat(device="mps", engine="faiss").build(np.ones((2, 3), "f4"))
    with pytest.raises(UserError, match=r"precision=bf16 is for torch, but search\.engine=faiss"):
        Flat(engine="faiss", precision="bf16")


def test_cuda_without_a_gpu_is_one_line():
    faiss = pytest.importorskip("faiss")
    if faiss.get_num_gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="sees no GPU"):
        Flat(device="cuda").build(np.ones((2, 3), "f4"))
    with pytest.raises(UserError, match="this machine has no GPU"):
        ExactTorch(device="cuda").build(np.ones((2, 3), "f4"))


def test_a_small_search_does_not_import_torch():
    """The import takes longer than the search."""
    script = (
        "import sys, numpy as np; from landmark.search import Flat; "
        "Flat().build(np.eye(9, dtype='f4')).search(np.eye(9, dtype='f4'), 3); "
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


@pytest.mark.parametrize("search", [Flat, ExactTorch])
def test_a_precision_may_be_a_number_as_yaml_reads_it(search):
    settings = {"engine": "torch"} if search is Flat else {}
    for precision in (32, 16):
        index = search("cpu", precision=precision, **settings).build(np.eye(3, dtype="f4"))
        assert index.settings.precision == str(precision)
        assert index.search(np.eye(3, dtype="f4"), 1)[0].tolist() == [[0], [1], [2]]
    with pytest.raises(
        UserError, match=r"precision=64 is not valid\. Pass auto or one of 32, bf16"
    ):
        search(precision=64)


def test_each_row_is_read_once_per_group_of_queries(monkeypatch):
    read = []
    scan = ProductScan.scan
    monkeypatch.setattr(
        ProductScan,
        "scan",
        lambda one, block, first: read.append(len(block)) or scan(one, block, first),
    )
    query, gallery = (np.random.default_rng(n).standard_normal((n, 5)) for n in (60, 300))
    search = ExactTorch("cpu", block_rows=32, block_queries=8)
    rows, _ = search.build(gallery).search(query.astype("f4"), 7)
    assert sum(read) == 300
    read.clear()
    values = 5 + flat._VALUES_PER_RESULT * 7  # of a query
    monkeypatch.setattr(flat, "_VALUES_TOGETHER", 20 * values)  # three groups of 20
    np.testing.assert_array_equal(search.build(gallery).search(query.astype("f4"), 7)[0], rows)
    assert sum(read) == 3 * 300
    np.testing.assert_array_equal(rows, full_sort(query.astype("f4"), gallery.astype("f4"), 7)[0])


def test_a_deferred_index_is_built_once_on_its_first_search(monkeypatch):
    built = []
    build = Flat.build
    monkeypatch.setattr(Flat, "build", lambda *given: built.append(given) or build(*given))
    index = DeferredIndex(whole_numbers(0, 9, 2), Flat(device="cpu"))
    assert (index.device, built) == ("cpu", [])
    for _ in range(2):
        rows, _ = index.search(whole_numbers(1, 4, 2).astype("f2"), 3)
    assert len(built) == 1
    np.testing.assert_array_equal(
        rows, full_sort(whole_numbers(1, 4, 2), whole_numbers(0, 9, 2), 3)[0]
    )


@pytest.fixture
def three_gpus(monkeypatch):
    """Simulate three GPUs of faiss on the CPU; return the calls of each."""
    import faiss

    asked = []

    def on_cpu(resources, query, vectors, k, *, metric, device, vectorsMemoryLimit):
        asked.append((device, len(vectors)))
        return faiss.knn(query, vectors, k, metric=metric)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 3)
    monkeypatch.setattr(faiss, "knn_gpu", on_cpu)
    monkeypatch.setattr(gpu, "resources", lambda number: number)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
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
    found, scores = Flat(device=device).build(gallery).search(query, 9)
    expected_rows, expected_scores = full_sort(query, gallery, 9)
    np.testing.assert_array_equal(found, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert set(three_gpus) == expected


def test_each_rank_of_a_machine_uses_one_gpu(three_gpus, monkeypatch):
    with pytest.raises(UserError, match="sees 3 GPUs"):
        gpu.gpus_of("cuda:3")
    assert gpu.gpus_of("cuda") == [0, 1, 2]
    for name, value in (("RANK", 5), ("WORLD_SIZE", 6), ("LOCAL_RANK", 2), ("LOCAL_WORLD_SIZE", 3)):
        monkeypatch.setenv(name, str(value))
    assert gpu.gpus_of("auto") == gpu.gpus_of("cuda") == [2]
    assert gpu.gpus_of("cpu") == []
    with pytest.raises(UserError, match=r"cuda:1 is one GPU for 3 processes.*device=cuda\."):
        gpu.gpus_of("cuda:1")


@pytest.mark.parametrize(("local_rank", "device"), [("0", "cuda:0"), ("3", "cuda:1")])
def test_each_rank_of_a_machine_has_its_own_torch_device(monkeypatch, local_rank, device):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", local_rank)):
        monkeypatch.setenv(name, value)
    assert str(local_torch_device("auto")) == str(local_torch_device("cuda")) == device
    assert str(local_torch_device("cpu")) == "cpu"

"""Exact search against float64 on sets with near-ties, duplicates, clusters and extreme values."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from adversarial_vectors import KINDS, adversarial, oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.stacked import StackedVectors
from landmark.error import UserError
from landmark.search import Flat, engine, flat, product_scan, running_top
from landmark.search.pair_products import _fault
from landmark.search.top_k import best_in_order

ENGINES = [("faiss", "auto"), ("torch", "32"), ("torch", "bf16"), ("torch", "16")]


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    """Search small galleries in many tiles, so that every path is reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product_scan, "_CPU_TILE", {2: (96, 8), 4: (96, 8)})
        patch.setattr(product_scan, "_LEAST_PAIRS", 16)
        patch.setattr(product_scan, "_MOST_RESULTS", 1)
        patch.setattr(product_scan, "_PAIRS", 256)
        patch.setattr(running_top, "_LEAST_PENDING", 2)
        yield


@given(
    kind=st.sampled_from(KINDS),
    engine=st.sampled_from(ENGINES),
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 12),
    rows=st.integers(1, 1200),
    dim=st.sampled_from([1, 3, 16, 65, 512]),
    k=st.one_of(st.integers(1, 40), st.just(10**6)),
    dtype=st.sampled_from(["f4", "f4", "f2"]),
)
@settings(max_examples=300, deadline=None)
def test_every_engine_returns_the_rows_of_float64(kind, engine, seed, queries, rows, dim, k, dtype):
    random = np.random.default_rng(seed)
    query, gallery = adversarial(kind, random, queries, rows, dim)
    with np.errstate(over="ignore"):
        gallery = gallery.astype(dtype)
    if not np.isfinite(gallery).all():
        gallery = np.nan_to_num(gallery)
    k = min(k, rows)
    expected_rows, expected = oracle(query, gallery, k)
    name, precision = engine
    search = Flat(
        "cpu", block_rows=1 + seed % 500, engine=name, precision=precision, block_queries=5
    )
    if seed % 2:
        cut = seed // 2 % rows
        gallery = StackedVectors([gallery[:cut], gallery[cut:]])
    found, scores = search.build(gallery).search(query, k)
    np.testing.assert_array_equal(found, expected_rows)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(scores, expected.astype("f4"), rtol=1e-6, atol=1e-6)


def test_a_small_first_block_does_not_make_the_products_wider(monkeypatch):
    """The first threshold is computed again from a larger block."""
    import torch

    random = np.random.default_rng(0)
    photos = random.standard_normal((4000, 64)).astype("f4")
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    scored, score = [], product_scan.pair_products

    def counting(query, gallery, at, rows):
        scored[-1] += len(at)
        return score(query, gallery, at, rows)

    monkeypatch.setattr(product_scan, "_FIRST_ROWS", {2: 32, 4: 32})
    monkeypatch.setattr(product_scan, "pair_products", counting)
    for blocks in ([0, 4000], [0, 40, 4000]):
        scored.append(0)
        scan = product_scan.ProductScan(photos[:8], 20, torch.device("cpu"), torch.bfloat16, 8)
        for first, end in pairwise(blocks):
            scan.scan(photos[first:end], first)
    assert scored[1] <= scored[0] + 8 * 40


def test_the_kernel_of_a_gpu_computes_inner_products():
    """Interpreted on the CPU."""
    pytest.importorskip("triton")
    code = """
import torch
from landmark.search.triton_kernel import inner_products
random = torch.Generator().manual_seed(0)
for dim in (1, 3, 64, 65, 515):
    query, gallery = (torch.randn(n, dim, generator=random, dtype=torch.float64) for n in (4, 9))
    queries, rows = (torch.randint(n, (37,), generator=random) for n in (4, 9))
    expected = (query[queries] * gallery[rows]).sum(1)
    found = inner_products(query, gallery, queries, rows)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(inner_products(query, gallery, queries[5:6], rows[5:6]), found[5:6])
    pairs = torch.stack([queries, rows], 1).unbind(1)  # not contiguous
    assert torch.equal(inner_products(query, gallery, *pairs), found)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_of_a_gpu_compiles(capability, tmp_path, monkeypatch):
    """For A100 and H100, without one."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from landmark.search.triton_kernel import _products

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    vectors = dict.fromkeys(("query", "gallery", "out"), "*fp64")
    types = {**vectors, "queries": "*i64", "rows": "*i64", "pairs": "i32", "dim": "i32"}
    sizes = {"pairs_together": 8, "dims_together": 64}
    source = ASTSource(
        fn=_products, signature=types | dict.fromkeys(sizes, "constexpr"), constexprs=sizes
    )
    assert "f64" in triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]


@pytest.mark.parametrize(
    ("products", "reason"),
    [
        (lambda q, g, a, b: (q[a] * g[b]).sum(1), ""),
        (lambda q, g, a, b: (q[a] * g[b]).sum(1) + 1e-9, "its products are wrong"),
        (lambda q, g, a, b: (q[a] * g[b]).sum(1) + 1e-15 * len(a), "depends on the other pairs"),
    ],
)
def test_a_kernel_with_a_fault_is_not_used(products, reason):
    import torch

    fault = _fault(products, torch.device("cpu"))
    assert reason in fault
    assert bool(fault) == bool(reason)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_training_in_this_process_does_not_change_the_results(precision):
    import torch

    query, gallery = adversarial("collapsed", np.random.default_rng(0), 9, 900, 512)
    search = Flat("cpu", engine="torch", precision=precision)
    torch.set_float32_matmul_precision("medium")  # bfloat16 products of float32
    try:
        with torch.autocast("cpu", torch.bfloat16):
            rows, _ = search.build(gallery).search(query, 20)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_array_equal(rows, oracle(query, gallery, 20)[0])


def test_ranks_and_devices_merge_in_float64():
    """Scores that are equal in float32 keep their order across shards."""
    query, gallery = adversarial("near ties", np.random.default_rng(0), 5, 400, 64)
    expected, _ = oracle(query, gallery, 50)
    whole = Flat("cpu").build(gallery)
    parts = [
        Flat("cpu").build(gallery[part]).search_wide(query, 50) for part in np.split(np.r_[:400], 2)
    ]
    merged, _ = best_in_order([parts[0], (parts[1][0] + 200, parts[1][1])], 50)
    np.testing.assert_array_equal(whole.search(query, 50)[0], expected)
    np.testing.assert_array_equal(merged, expected)


def test_several_devices_share_each_block(monkeypatch):
    import torch

    monkeypatch.setattr(flat, "_torch_devices", lambda _: [torch.device("cpu")] * 3)
    for kind in ("duplicates", "unit"):
        query, gallery = adversarial(kind, np.random.default_rng(1), 7, 500, 32)
        index = Flat("cpu", block_rows=100, engine="torch", precision="bf16").build(gallery)
        np.testing.assert_array_equal(index.search(query, 30)[0], oracle(query, gallery, 30)[0])


def test_a_wrong_product_of_faiss_is_said(monkeypatch):
    """Some kernels of old BLAS libraries compute wrong products on new processors."""
    from landmark.search import faiss_scan

    def wrong(query, block, k, gpus):
        rows, products = knn(query, block, k, gpus)
        return rows, products + np.float32(0.01)

    knn = faiss_scan.knn
    monkeypatch.setattr(faiss_scan, "knn", wrong)
    query, gallery = adversarial("unit", np.random.default_rng(0), 2, 30, 16)
    with pytest.raises(UserError, match=r"BLAS is wrong.*search\.engine=torch"):
        Flat("cpu").build(gallery).search(query, 3)


def test_wrong_products_of_torch_are_refused_and_not_chosen(monkeypatch):
    import torch

    cpu, random = torch.device("cpu"), np.random.default_rng(0)
    query, gallery = adversarial("unit", random, 40, 2000, 64)
    monkeypatch.setattr(engine, "is_right", lambda choice, *_: choice.precision == "32")
    monkeypatch.setattr(engine, "_fast_precisions", lambda _: ("bf16", "32"))
    monkeypatch.setattr(engine, "_chosen", {})
    arguments = (query, 5, gallery, 2000, cpu)
    assert engine.choose(*arguments, None, "auto", None).precision == "32"
    with pytest.raises(UserError, match=r"precision=bf16: products on cpu are wrong"):
        engine.choose(*arguments, None, "bf16", None)
    monkeypatch.setattr(engine, "is_right", lambda *_: False)
    monkeypatch.setattr(engine, "_chosen", {})
    with pytest.raises(UserError, match=r"engine=torch: products on cpu are wrong"):
        engine.choose(*arguments, None, "auto", None)
    assert engine.choose(*arguments, [], "auto", None) == engine.FAISS


def test_the_choice_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(engine, "_chosen", {})
    monkeypatch.setattr(flat, "SMALL_WORK", 0)
    query, gallery = adversarial("unit", np.random.default_rng(0), 40, 2000, 64)
    for _ in range(2):
        rows, _ = Flat("cpu").build(gallery).search(query, 5)
    np.testing.assert_array_equal(rows, oracle(query, gallery, 5)[0])
    said = capsys.readouterr().err
    assert said.count("Exact search with ") == 1
    assert "faiss" in said
    assert "PyTorch float32" in said

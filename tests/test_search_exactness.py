"""Exact search against float64 on sets with near-ties, duplicates, clusters and extreme values."""

import numpy as np
import pytest
from adversarial_vectors import KINDS, adversarial, oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.search import Flat, product_scan, running_top

ENGINES = [("faiss", "auto"), ("torch", "32"), ("torch", "bf16"), ("torch", "16")]


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    """Search small galleries in many tiles, so that every path is reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product_scan, "_CPU_TILE_ROWS", 96)
        patch.setattr(product_scan, "_LEAST_PAIRS", 16)
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
    found, scores = search.build(gallery).search(query, k)
    np.testing.assert_array_equal(found, expected_rows)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(scores, expected.astype("f4"), rtol=1e-6, atol=1e-6)

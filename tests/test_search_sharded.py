"""Two ranks with half of the gallery each equal one process."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from ranks import run_ranks

from landmark.artifact.stacked import StackedVectors
from landmark.search import HNSW, IVF, ExactTorch, Flat
from landmark.search.sharded import ShardedSearch, shard_search


def whole_numbers(seed, rows, values=2, dim=5):
    """Return vectors whose products are exact, with many ties."""
    return np.random.default_rng(seed).integers(-values, values + 1, (rows, dim)).astype("f4")


def unit_rows(seed, rows, dim=24):
    """Return vectors of about unit length, rounded so that inner products are exact in float32."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (np.round(256 * vectors) / 256).astype("f4")


GALLERIES = {
    "ties": (whole_numbers(0, 30), whole_numbers(1, 301), 40),
    "all equal": (whole_numbers(0, 3), np.ones((50, 5), "f4"), 20),
    "one photo": (whole_numbers(0, 3), whole_numbers(1, 1), 4),
    "no query": (whole_numbers(0, 0), whole_numbers(1, 9), 4),
    "more than there are": (whole_numbers(0, 3), whole_numbers(1, 9), 12),
    "random": (unit_rows(0, 60), unit_rows(1, 1501), 100),
    "half precision": (unit_rows(2, 60), unit_rows(3, 1501).astype("f2"), 100),
    "stacked": (
        unit_rows(4, 60),
        StackedVectors([unit_rows(5, 400).astype("f2"), unit_rows(6, 900)]),
        100,
    ),
}
SEARCHES = {
    "flat": lambda: Flat(device="cpu", block_rows=64),
    "exact_torch": lambda: ExactTorch(device="cpu", block_rows=64),
    "ivf": lambda: IVF(n_lists=3, n_probe=3, refine=1),
    "first dimensions": lambda: Flat(device="cpu", block_rows=64, dims=4, refine=2),
}


def process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    results = {}
    for name, make in SEARCHES.items():
        for gallery, (query, vectors, k) in GALLERIES.items():
            index = shard_search(make()).build(vectors)
            results[f"{name}, {gallery}"] = index.search(query, k)
    saving = ShardedSearch(HNSW(index=f"{folder}/index"))
    for _ in range(2):
        index = saving.build(GALLERIES["random"][1])
        results["saved"] = index.search(unit_rows(0, 9), 5)
    train = unit_rows(7, 40)  # of the same kind: sharded as well, and not saved
    results["train"] = index.settings.build(train).search(unit_rows(0, 9), 3)
    try:
        shard_search(Flat(device="cpu")).build(unit_rows(1, 9)).search(unit_rows(0, 2 + rank), 3)
    except ValueError as error:
        results["differ"] = str(error)
    np.save(Path(folder) / f"{rank}.npy", np.array(results, object), allow_pickle=True)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    run_ranks(process, str(folder))
    results = [np.load(folder / f"{rank}.npy", allow_pickle=True).item() for rank in (0, 1)]
    return folder, results


@pytest.mark.parametrize("gallery", GALLERIES)
@pytest.mark.parametrize("search", SEARCHES)
def test_two_ranks_return_the_ranking_of_one_process(two_ranks, search, gallery):
    query, vectors, k = GALLERIES[gallery]
    one = SEARCHES[search]() if search == "first dimensions" else Flat("cpu", block_rows=64)
    rows, scores = one.build(vectors).search(query, k)
    for results in two_ranks[1]:
        found, found_scores = results[f"{search}, {gallery}"]
        assert found.dtype == np.int32
        assert found_scores.dtype == np.float32
        np.testing.assert_array_equal(found, rows)
        np.testing.assert_array_equal(found_scores, scores)


def test_each_rank_saves_the_index_of_its_shard(two_ranks):
    folder, _ = two_ranks
    assert sorted(path.name for path in folder.glob("index*")) == ["index.0-of-2", "index.1-of-2"]
    rows, _ = Flat(device="cpu").build(unit_rows(7, 40)).search(unit_rows(0, 9), 3)
    for results in two_ranks[1]:
        np.testing.assert_array_equal(results["train"][0], rows)


def test_ranks_with_different_queries_are_refused(two_ranks):
    for results in two_ranks[1]:
        assert "differ between ranks" in results["differ"]
        assert "[2, 24, 9, 24, 3], [3, 24, 9, 24, 3]" in results["differ"]

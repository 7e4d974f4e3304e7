"""Two ranks share the work of every re-ranker and equal one process."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed
from exact_descriptors import exact_unit
from ranks import run_ranks

from landmark.rerank import (
    DBA,
    EGT,
    AlphaQE,
    AQEDecay,
    Chamfer,
    Diffusion,
    KReciprocal,
    OnlineDiffusion,
    RankFusion,
    Spatial,
    SuperGlobal,
    TwoStage,
    diffusion,
    egt,
    expansion,
    k_reciprocal,
    pair_model,
    spatial,
)
from landmark.rerank import dba as dba_module
from landmark.rerank.retrieval import Retrieval
from landmark.search import Flat
from landmark.search.flat import FlatIndex
from landmark.search.sharded import shard_search
from landmark.verify import Verification

QUERIES, GALLERY, KEPT = 14, 122, 20
FLAT = Flat(device="cpu", block_rows=16)


class SmallPhotos:
    """Local features of photos: the photo of number i has i % 5 of them."""

    def __init__(self, count):
        self.count = count

    def __getitem__(self, rows):
        if isinstance(rows, slice):
            return [self[row] for row in range(self.count)[rows]]
        random = np.random.default_rng(int(rows))
        return SimpleNamespace(descriptors=random.standard_normal((rows % 5, 6)))


class Nearness:
    """A verifier of photos that are numbers."""

    features = "drawn"

    def __call__(self, a, b):
        """Score two numbers by their difference."""
        none = np.empty((0, 2), np.int64)
        return Verification(float(abs(a - b) % 7), 0, none, np.empty(0, bool), None)


RERANKERS = {
    "alpha_qe": AlphaQE(n=3),
    "aqe_decay": AQEDecay(n=3),
    "dba": DBA(n=3),
    "two_stage": TwoStage(k=2),
    "diffusion": Diffusion(n_trunc=30, kd=6),
    "online_diffusion": OnlineDiffusion(kd=6, kq=3),
    "egt": EGT(threshold=0.6, k=6),
    "k_reciprocal": KReciprocal(k1=6, k2=3),
    "superglobal": SuperGlobal(m=10, k=3),
    "rank_fusion": RankFusion(),
    "chamfer": Chamfer(local="small", gamma=1.0, top=10, device="cpu"),
    "spatial": Spatial({"nearness": Nearness()}, {"nearness": 1.0}, {"nearness": 5.0}, top=10),
}
# The most expensive function, and the index of its argument with the rows that it processes.
EXPENSIVE = {
    "alpha_qe": (expansion, "expand", 0),
    "aqe_decay": (expansion, "expand", 0),
    "dba": (dba_module, "expand", 0),
    "two_stage": (TwoStage, "_rerank", 1),
    "diffusion": (diffusion, "truncated_diffusion", 1),
    "online_diffusion": (OnlineDiffusion, "_solution", 2),
    "egt": (egt, "traverse", 0),
    "k_reciprocal": (k_reciprocal, "overlaps", 0),
    "k_reciprocal, encoding": (k_reciprocal.Encoding, "_weighted", 2),
    "superglobal": (SuperGlobal, "_scores", 1),
    "rank_fusion": (RankFusion, "_fused", 1),
    "spatial": (spatial, "cosines_of", 0),
    "chamfer": (pair_model, "cosines_of", 0),
    "chamfer, pairs": (pair_model.Photos, "scores", 2),
    "spatial, pairs": (Nearness, "__call__", 1),
}
SMALL_BLOCKS = (
    (diffusion, "_BLOCK_ROWS", 8),
    (k_reciprocal, "_COMPARED_ROWS", 8),
    (k_reciprocal, "_ENCODED_ROWS", 8),
    (dba_module, "_EXPANDED_ROWS", 20),
    (dba_module, "_SEARCHED_ROWS", 50),
)
CASES = {
    "several queries": slice(0, QUERIES),
    "one query": slice(0, 1),  # one rank has no query
}


def retrieval_of(search, queries, kept=KEPT):
    random = np.random.default_rng(0)
    photos = exact_unit(random, 9, QUERIES + GALLERY + 40)
    query, gallery, train = np.split(photos, [QUERIES, QUERIES + GALLERY])
    landmarks = random.integers(0, 4, len(train))
    found = Retrieval.from_search(
        query[queries],
        gallery,
        kept,
        search,
        train,
        landmarks,
        query_local={"drawn": np.arange(QUERIES)[queries], "small": SmallPhotos(QUERIES)[queries]},
        gallery_local={"drawn": np.arange(GALLERY), "small": SmallPhotos(GALLERY)},
    )
    reverse = found.with_ranking(found.rows[:, ::-1], found.scores)
    return replace(reverse.remembered("reverse"), rows=found.rows).remembered("search")


def results() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return rows and scores of every re-ranker in every case."""
    search, found = shard_search(FLAT), {}
    with pytest.MonkeyPatch.context() as patch:
        for module, name, size in SMALL_BLOCKS:
            patch.setattr(module, name, size)
        for case, queries in CASES.items():
            before = retrieval_of(search, queries)
            found[f"search, {case}"] = before.rows, before.scores
            for name, reranker in RERANKERS.items():
                after = reranker(before)
                found[f"{name}, {case}"] = after.rows, after.scores
        after = EGT(threshold=0.9, k=6)(retrieval_of(search, slice(0, 5), kept=6))
        found["egt, looking neighbours up"] = after.rows, after.scores
    return found


def rows_in(argument) -> int:
    """Return the number of rows of an array, a sparse matrix, a list of rankings; a photo is 1."""
    if np.isscalar(argument):
        return 1
    return argument[0].rows.shape[0] if isinstance(argument, list) else argument.shape[0]


def counts() -> dict[str, int]:
    """Return the rows that this rank passed to the expensive function of each re-ranker."""
    counted = {}
    for name, (owner, function, place) in EXPENSIVE.items():
        with pytest.MonkeyPatch.context() as patch:
            handled, work = [], getattr(owner, function)

            def counting(*given, place=place, work=work, handled=handled, **more):
                handled.append(rows_in(given[place]))
                return work(*given, **more)

            patch.setattr(owner, function, counting)
            RERANKERS[name.partition(",")[0]](retrieval_of(shard_search(FLAT), slice(None)))
        counted[name] = sum(handled)
    with pytest.MonkeyPatch.context() as patch:
        searched, search = [], FlatIndex._nearest

        def searching(index, query, k):
            searched.append(len(index.gallery))
            return search(index, query, k)

        patch.setattr(FlatIndex, "_nearest", searching)
        before = retrieval_of(shard_search(FLAT), slice(None))
        counted["search"] = sum(searched)
        searched.clear()
        RERANKERS["k_reciprocal"](before)
        counted["k_reciprocal, search"] = sum(searched)
    return counted


def process(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    found = np.array([results(), counts()], object)
    np.save(Path(folder) / f"{rank}.npy", found, allow_pickle=True)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    run_ranks(process, str(folder))
    return [np.load(folder / f"{rank}.npy", allow_pickle=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one_process():
    return results(), counts()


NAMES = [f"{name}, {case}" for name in ("search", *RERANKERS) for case in CASES]


@pytest.mark.parametrize("name", [*NAMES, "egt, looking neighbours up"])
def test_two_ranks_equal_one_process(two_ranks, one_process, name):
    rows, scores = one_process[0][name]
    for found, _ in two_ranks:
        np.testing.assert_array_equal(found[name][0], rows)
        np.testing.assert_array_equal(found[name][1], scores)


@pytest.mark.parametrize("name", [*EXPENSIVE, "search", "k_reciprocal, search"])
def test_each_rank_does_half_of_the_work(two_ranks, one_process, name):
    first, second = (counted[name] for _, counted in two_ranks)
    total = one_process[1][name]
    assert first + second == total
    assert abs(first - second) <= max(1, total // 20)

"""Queries that are also in the gallery under the same id are not their own answers."""

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.rerank import (
    DBA,
    EGT,
    AlphaQE,
    AQEDecay,
    Diffusion,
    KReciprocal,
    OnlineDiffusion,
    RankFusion,
    SuperGlobal,
    TwoStage,
)
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.stores import Stores
from landmark.score.ground_truth import LandmarkGroundTruth, find_ground_truth
from landmark.search import HNSW, IVF, ExactTorch, Flat
from landmark.search.sharded import ShardedSearch

ROOT = Path(__file__).resolve().parents[1]
K = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write stores of 8 landmarks; 6 of 15 queries are in the gallery, 4 in train."""
    folder = tmp_path_factory.mktemp("stores")
    random = np.random.default_rng(0)
    centres = random.standard_normal((8, 16))

    def photos(count):
        landmarks = random.integers(0, 8, count)
        vectors = centres[landmarks] + 1.2 * random.standard_normal((count, 16))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
        return vectors, [f"place {n}" for n in landmarks]

    query, query_landmarks = photos(15)
    ids = [f"query{i}" for i in range(15)]
    DescriptorStore.write(folder / "query", ids, query, query_landmarks)
    for name, shared in (("gallery", [0, 3, 5, 7, 8, 14]), ("train", [1, 3, 5, 9])):
        vectors, landmarks = photos(60)
        order = random.permutation(60 + len(shared))
        DescriptorStore.write(
            folder / name,
            np.array([f"{name}{i}" for i in range(60)] + [ids[i] for i in shared])[order],
            np.concatenate([vectors, query[shared]])[order],
            np.array(landmarks + [query_landmarks[i] for i in shared])[order],
        )
    return folder


def opened(world) -> Stores:
    return Stores.open(world / "query", world / "gallery", world / "train")


def alone(stores: Stores, query: int, k: int) -> tuple[Retrieval, np.ndarray]:
    """Search one query in the gallery and train photos without its own; return also their rows."""
    own, own_train = stores.own_rows[query], stores.own_train_rows[query]
    rows = np.delete(np.arange(len(stores.gallery)), own) if own >= 0 else np.arange(66)
    train = np.delete(np.arange(64), own_train) if own_train >= 0 else np.arange(64)
    retrieval = Retrieval.from_search(
        stores.query.vectors[query : query + 1],
        stores.gallery.vectors[rows],
        k,
        Flat(device="cpu"),
        stores.train.vectors[train],
        stores.train.landmark_ids[train],
    )
    return retrieval, rows


@pytest.mark.parametrize(
    "reranker",
    [
        lambda retrieval: retrieval,
        AlphaQE(n=4),
        AQEDecay(n=5),
        SuperGlobal(m=15, k=3),
        OnlineDiffusion(kd=2, kq=1),
        EGT(threshold=0.9, k=66),
        TwoStage(),
        TwoStage(sort=False, threshold=None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_results_are_those_of_a_gallery_without_the_own_photo(world, reranker):
    stores = opened(world)
    result = reranker(stores.search(Flat(device="cpu"), K))
    agreeing = []
    for query in range(15):
        single, rows = alone(stores, query, K)
        expected = rows[reranker(single).rows[0]]
        agreeing.append((result.rows[query] == expected).mean())
    # The graph of online diffusion is that of the complete gallery, and TwoStage's gallery votes
    # are those of the complete train store.
    least = 0.5 if isinstance(reranker, OnlineDiffusion | TwoStage) else 1
    assert np.mean(agreeing) >= least


@pytest.mark.parametrize(
    "reranker",
    [
        AlphaQE(n=4),
        DBA(n=4),
        Diffusion(kd=10, n_trunc=60),
        Diffusion(kd=81, n_trunc=81),
        OnlineDiffusion(kd=10, kq=3),
        EGT(threshold=0.3, k=5),
        KReciprocal(k1=8, k2=3),
        KReciprocal(k1=90, k2=90),
        SuperGlobal(m=20, k=3),
        TwoStage(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("k", [20, 65])
def test_no_re_ranker_returns_an_own_photo(world, reranker, k):
    stores = opened(world)
    result = reranker(stores.search(Flat(device="cpu"), k))
    own = stores.own_rows
    assert (own >= 0).sum() == 6
    assert result.rows.shape == (15, k)
    assert not ((result.rows == own[:, None]) & (own[:, None] >= 0)).any()
    assert (result.rows >= 0).all()  # k results for each query
    assert all(len(set(line)) == k for line in result.rows.tolist())


@pytest.mark.parametrize(
    "search",
    [
        Flat(device="cpu"),
        ExactTorch(device="cpu"),
        IVF(n_lists=1),
        HNSW(ef_search=66),
        ShardedSearch(Flat(device="cpu")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_search_leaves_out_the_own_photo(world, search):
    stores = opened(world)
    retrieval = stores.search(search, K)
    np.testing.assert_array_equal(retrieval.rows, stores.search(Flat(device="cpu"), K).rows)
    kept = stores.search(search, K, allow_self=True)
    inside = stores.own_rows >= 0
    np.testing.assert_array_equal(kept.rows[inside, 0], stores.own_rows[inside])


def test_a_complete_ranking_has_one_result_less(world):
    stores = opened(world)
    rows = stores.search(Flat(device="cpu"), 66).rows
    inside = stores.own_rows >= 0
    assert (rows[inside, -1] == -1).all()
    assert (rows[~inside] >= 0).all()
    assert (rows[:, :-1] >= 0).all()


def test_the_own_photo_is_not_relevant(world):
    """The metrics are those of each query in a gallery without its own photo."""
    stores = opened(world)
    rows = stores.search(Flat(device="cpu"), 66).rows
    truth = find_ground_truth(stores.query, stores.gallery, own_rows=stores.own_rows)
    precisions = truth.evaluate(rows).precisions["map_at_100"]
    for query in range(15):
        single, kept = alone(stores, query, 60)
        expected = LandmarkGroundTruth(
            stores.query.landmark_ids[query : query + 1], stores.gallery.landmark_ids[kept]
        ).evaluate(Flat(device="cpu").build(single.gallery).search(single.query, 66)[0])
        assert precisions[query] == pytest.approx(expected.metrics["map_at_100"])


def test_the_command_says_what_it_excludes(rerank, world, tmp_path):
    stores = [f"{name}={world / name}" for name in ("query", "gallery", "train")]
    status, _, errors = rerank(*stores, "output=out", "k=20", "report=0", "rerank=[two_stage,egt]")
    assert status == 0, errors
    lines = errors.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("6 of 15 queries are also in the gallery under the same id")
    assert lines[1].startswith("4 of 15 queries are also in the train store under the same id")
    found = Rankings.open(tmp_path / "out")
    own = opened(world).own_rows
    assert not ((found.rows == own[:, None]) & (own[:, None] >= 0)).any()
    assert found.metrics["own_photos_excluded"] == 6
    submission = pd.read_csv(tmp_path / "out/submission.csv")
    listed = zip(submission["id"], submission["images"].str.split(), strict=True)
    assert all(query not in images and len(images) == 20 for query, images in listed)

    status, _, errors = rerank(*stores, "output=kept", "k=20", "report=0", "allow_self=true")
    assert status == 0
    assert errors.count("count as their own answers (allow_self=true)") == 2
    kept = json.loads((tmp_path / "kept/metrics.json").read_text())
    assert kept["nearest_train_accuracy"] >= found.metrics["nearest_train_accuracy"]
    assert kept["top_1"] >= found.metrics["steps"][0]["top_1"]

    arguments = ["rerank=rank_fusion", f"rerank.rank_fusion.rankings=[{tmp_path / 'kept'}]"]
    status, _, errors = rerank(*stores, "output=fused", "k=20", "report=0", *arguments)
    assert status == 0, errors
    rows = Rankings.open(tmp_path / "fused").rows
    assert not ((rows == own[:, None]) & (own[:, None] >= 0)).any()
    assert (rows >= 0).all()


def test_no_line_without_own_photos(rerank, world, tmp_path):
    gallery = DescriptorStore.open(world / "gallery")
    ids = [f"other/{name}" for name in gallery.ids]
    DescriptorStore.write(tmp_path / "other", ids, gallery.vectors, gallery.landmark_ids)
    status, _, errors = rerank(f"query={world}/query", "gallery=other", "output=out", "report=0")
    assert (status, errors) == (0, "")
    assert "own_photos_excluded" not in Rankings.open(tmp_path / "out").metrics


def test_an_approximate_search_has_its_recall_in_the_metrics(rerank, world, tmp_path):
    stores = [f"{name}={world / name}" for name in ("query", "gallery")]
    narrow = ["search=ivf", "search.n_lists=20", "search.n_probe=1", "k=20", "report=0"]
    status, printed, errors = rerank(*stores, *narrow, "output=narrow")
    assert status == 0, errors
    metrics = Rankings.open(tmp_path / "narrow").metrics
    assert metrics["search_recall_at_20"] < 0.9
    assert metrics["search_recall_queries"] == 15
    assert f"search recall@20 {metrics['search_recall_at_20']:.4f} on 15 queries" in printed
    assert "Raise search.n_probe or search.refine, or pass search=flat." in errors
    assert len(errors.splitlines()) == 2  # and the own photos

    wide = [*narrow, "search.n_probe=20"]
    status, _, errors = rerank(*stores, *wide, "output=wide")
    assert Rankings.open(tmp_path / "wide").metrics["search_recall_at_20"] == 1
    assert "Raise" not in errors
    status, printed, _ = rerank(*stores, "report=0", "output=exact")
    assert "recall" not in printed
    assert not any("recall" in key for key in Rankings.open(tmp_path / "exact").metrics)


def test_fusion_needs_no_ids_of_own_photos():
    photos = np.eye(3, dtype="f4")
    retrieval = Retrieval.from_search(photos, photos, 2, Flat(), own_rows=np.arange(3))
    earlier = retrieval.remembered("search").searched().remembered("again")
    assert not (RankFusion()(earlier).rows == np.arange(3)[:, None]).any()


def test_roxford_ranks_the_whole_gallery_by_default(rerank, world, tmp_path):
    stores = opened(world)
    root = tmp_path / "oxford"
    (root / "jpg").mkdir(parents=True)
    names = {"imlist": stores.gallery.ids.tolist(), "qimlist": stores.query.ids.tolist()}
    for listed in names.values():
        (root / "jpg" / f"{listed[0]}.jpg").touch()
    own = int(stores.own_rows[0])
    lists = {"bbx": [0, 0, 9, 9], "easy": [own, 40], "hard": [2], "junk": [5]}
    with (root / "gnd_roxford5k.pkl").open("wb") as file:
        pickle.dump({"gnd": [lists] * 15, **names}, file)
    arguments = [f"query={world}/query", f"gallery={world}/gallery", "report=0"]
    arguments += ["data=roxford5k", f"data.root={root}"]
    status, printed, errors = rerank(*arguments, "output=out")
    assert status == 0, errors
    assert Rankings.open(tmp_path / "out").rows.shape == (15, 66)
    assert Rankings.open(tmp_path / "out").meta["k"] == 66
    assert "easy mAP" in printed
    status, _, errors = rerank(*arguments, "output=cut", "k=30")
    assert status == 0, errors
    assert Rankings.open(tmp_path / "cut").rows.shape == (15, 30)


@pytest.mark.parametrize(
    "arguments",
    [
        ["rerank=alpha_qe", "rerank.alpha_qe.alpha=1e30"],
        ["rerank=alpha_qe", "rerank.alpha_qe.n=0"],
        ["rerank=alpha_qe", "rerank.alpha_qe.n=50"],
        ["rerank=dba", "rerank.dba.alpha=-1"],
        ["rerank=diffusion", "rerank.diffusion.iterations=1000000000000"],
        ["rerank=diffusion", "rerank.diffusion.gamma=1e9"],
        ["rerank=superglobal", "rerank.superglobal.beta=1e30"],
        ["rerank=two_stage", "rerank.two_stage.temperature=1e-300"],
        ["rerank=rank_fusion", "rerank.rank_fusion.constant=1e300"],
        ["search=hnsw", "search.ef_search=1000000000000"],
        ["search=hnsw", "search.ef_construction=0"],
        ["search=ivf", "search.seed=99999999999"],
        ["search=ivf", "search.n_probe=99999999999"],
        ["search=factory", "search.description=[IVF0,Flat]"],
        ["search=factory", "search.description=IDMap"],
        [
            "search=factory",
            "search.description=HNSW8",
            "search.parameters={efSearch:1000000000000}",
        ],
        ["k=1000000000000"],
        ["k=0"],
        ["allow_self=maybe"],
    ],
    ids=lambda value: value[-1],
)
def test_a_setting_out_of_range_is_one_line(rerank, world, tmp_path, arguments):
    stores = [f"{name}={world / name}" for name in ("query", "gallery", "train")]
    status, _, errors = rerank(*stores, "output=out", "k=20", "report=0", *arguments)
    lines = [line for line in errors.splitlines() if "under the same id" not in line]
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["rerank=dba", "rerank.dba.n=1000000000"],
        ["rerank=egt", "rerank.egt.k=1000000000"],
        ["rerank=two_stage", "rerank.two_stage.k=1000000000"],
        ["rerank=online_diffusion", "rerank.online_diffusion.kq=1000000000"],
        ["search=ivf", "search.refine=1000000000", "search.block_rows=2147483647"],
    ],
    ids=lambda value: value[-1],
)
def test_a_count_above_the_gallery_means_all(rerank, world, arguments):
    stores = [f"{name}={world / name}" for name in ("query", "gallery", "train")]
    status, _, errors = rerank(*stores, "output=out", "k=20", "report=0", *arguments)
    assert status == 0, errors

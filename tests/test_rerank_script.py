"""rerank.py end to end on small stores: its output, files and errors."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.artifact.submission import check_retrieval
from landmark.error import UserError
from landmark.metric import revisited
from landmark.metric.bootstrap import mean_interval
from landmark.rerank import DBA, AlphaQE, RankFusion, TwoStage
from landmark.rerank.retrieval import Retrieval
from landmark.rerank.stores import Stores
from landmark.score.ground_truth import (
    LandmarkGroundTruth,
    RevisitedGroundTruth,
    find_ground_truth,
)
from landmark.search import Flat

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write three stores of 8 landmarks, with photos scattered around their landmark."""
    folder = tmp_path_factory.mktemp("stores")
    random = np.random.default_rng(0)
    centres = random.standard_normal((8, 16))
    for name, photos in (("query", 12), ("gallery", 60), ("train", 80)):
        landmarks = random.integers(0, 8, photos)
        vectors = centres[landmarks] + 1.2 * random.standard_normal((photos, 16))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
        ids = [f"{name}{i}" for i in range(photos)]
        DescriptorStore.write(
            folder / name, ids, vectors, [f"place {n}" for n in landmarks], embedder="abc"
        )
    return folder


def opened(world) -> Stores:
    return Stores.open(world / "query", world / "gallery", world / "train")


def stores_of(world) -> list[str]:
    return [f"{name}={world / name}" for name in ("query", "gallery", "train")]


def test_the_chain_applies_in_the_order_given(rerank, world, tmp_path):
    output = tmp_path / "out"
    status, printed, errors = rerank(
        *stores_of(world),
        "rerank=[two_stage,dba,alpha_qe]",
        "rerank.alpha_qe.n=4",
        "rerank.dba.n=3",
        "k=20",
        f"output={output}",
    )
    assert status == 0, errors
    stores = opened(world)
    first = stores.search(Flat(), 20)
    expected = AlphaQE(n=4)(DBA(n=3)(TwoStage()(first)))
    found = Rankings.open(output)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    assert [step["step"] for step in found.meta["steps"]] == [
        "search",
        "two_stage",
        "dba",
        "alpha_qe",
    ]
    assert found.meta["steps"][3]["n"] == 4
    assert found.meta["stores"]["query"]["embedder"] == "abc"

    truth = LandmarkGroundTruth(stores.query.landmark_ids, stores.gallery.landmark_ids, k=20)
    before, after = (truth.evaluate(r.rows).metrics for r in (first, TwoStage()(first)))
    lines = printed.splitlines()
    assert f"mAP@20 {before['map_at_20']:.4f}" in lines[1]
    assert lines[2].startswith("two_stage")
    assert f"{before['map_at_20']:.4f} → {after['map_at_20']:.4f}" in lines[2]
    assert lines[-2].startswith("1-nn landmark of train")
    assert lines[-1] == f"wrote {output}"
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["map_at_20"] == truth.evaluate(found.rows).metrics["map_at_20"]
    assert "map_at_100" not in metrics
    assert [step["map_at_20"] for step in metrics["steps"]][:2] == [
        before["map_at_20"],
        after["map_at_20"],
    ]
    assert check_retrieval(output / "submission.csv", stores.gallery.ids, stores.query.ids) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_metrics_have_an_interval_and_the_cost_of_each_step(rerank, world, tmp_path):
    status, printed, errors = rerank(
        *stores_of(world), "rerank=[two_stage,egt]", "rerank.egt.k=5", "k=20", "output=out"
    )
    assert status == 0, errors
    stores = opened(world)
    truth = LandmarkGroundTruth(stores.query.landmark_ids, stores.gallery.landmark_ids, k=20)
    first = stores.search(Flat(), 20)
    before, after = (truth.evaluate(r.rows).precisions for r in (first, TwoStage()(first)))
    interval = mean_interval(after["map_at_20"] - before["map_at_20"])
    line = printed.splitlines()[2]
    assert f"({interval.mean:+.4f}, {interval.low:+.4f} … {interval.high:+.4f})" in line
    assert re.search(r"   \d+\.\d s   \d+\.\d\d GiB$", line)

    metrics = Rankings.open(tmp_path / "out").metrics
    assert metrics["steps"][1]["change"]["map_at_20"] == pytest.approx(interval._asdict())
    assert metrics["steps"][1]["peak_bytes"] >= 0
    protocol = metrics["protocol"]
    assert protocol["stores"]["train"] == {
        "photos": 80,
        "dim": 16,
        "embedder": "abc",
        **dict.fromkeys(
            ("table", "whitening", "image", "crop", "scales", "flip", "combine", "split")
        ),
    }
    assert [step["step"] for step in protocol["steps"]] == ["search", "two_stage", "egt"]
    assert protocol["steps"][2]["k"] == 5
    assert protocol["distractors"] == 0
    assert protocol["ground_truth"] == "landmarks of the stores"


def test_all_re_rankers_in_one_chain(rerank, world, tmp_path):
    names = sorted(path.stem for path in (ROOT / "conf/rerank").glob("*.yaml"))
    # tests/test_rerank_spatial.py, tests/test_rerank_pair_model.py
    need_local_features = {"spatial", "spatial_2019", "chamfer", "elvis", "ames"}
    names = [n for n in names if n not in {"rank_fusion", *need_local_features}] + ["rank_fusion"]
    status, printed, errors = rerank(
        *stores_of(world), f"rerank=[{','.join(names)}]", "k=60", "output=out"
    )
    assert status == 0, errors
    shown = [line.split()[0] for line in printed.splitlines() if "mAP@100" in line]
    assert shown == ["search", *names]
    found = Rankings.open(tmp_path / "out")
    np.testing.assert_array_equal(np.sort(found.rows, axis=1), np.tile(np.arange(60), (12, 1)))
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()


def test_rankings_of_earlier_runs_and_steps_are_fused(rerank, world, tmp_path):
    for chain, output in (("[two_stage]", "a"), ("[alpha_qe]", "b")):
        assert rerank(*stores_of(world), f"rerank={chain}", "k=20", f"output={output}")[0] == 0
    status, _, errors = rerank(
        *stores_of(world)[:2],
        "rerank=[rank_fusion]",
        "rerank.rank_fusion.rankings=[a,b]",
        "k=20",
        "output=folders",
    )
    assert status == 0, errors
    status, _, errors = rerank(
        *stores_of(world), "rerank=[two_stage,alpha_qe,rank_fusion]", "k=20", "output=steps"
    )
    assert status == 0, errors
    first = opened(world).search(Flat(), 20)
    staged, asked = TwoStage()(first), AlphaQE()(first)
    both = AlphaQE()(staged)
    for folder, rankings in (("folders", (staged, asked, first)), ("steps", (first, staged, both))):
        earlier = {str(i): (r.rows, r.scores) for i, r in enumerate(rankings)}
        wanted = RankFusion()(replace(rankings[-1], earlier=earlier))
        np.testing.assert_array_equal(Rankings.open(tmp_path / folder).rows, wanted.rows)


def test_a_single_reranker_without_brackets_and_the_default_output(rerank, world, tmp_path):
    status, printed, errors = rerank(
        *stores_of(world)[:2], "rerank=alpha_qe", "rerank.alpha_qe.n=2"
    )
    assert status == 0, errors
    output = tmp_path / printed.splitlines()[-1].removeprefix("wrote ")
    assert output.relative_to(tmp_path).parts[:2] == ("runs", "rerank")
    expected = AlphaQE(n=2)(opened(world).search(Flat(), 60))
    np.testing.assert_array_equal(Rankings.open(output).rows, expected.rows)


def test_ids_that_a_submission_cannot_list_are_refused_before_the_search(rerank, tmp_path):
    vectors = np.eye(4, dtype="f4")
    DescriptorStore.write(tmp_path / "query", ["q0", "q1"], vectors[:2])
    DescriptorStore.write(tmp_path / "gallery", [f"Big Ben {i}.jpg" for i in range(4)], vectors)
    stores = [f"{name}={tmp_path / name}" for name in ("query", "gallery")]
    status, printed, errors = rerank(*stores, "output=out")
    assert (status, printed) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith("error: gallery id 'Big Ben 0.jpg' cannot be listed in submission.csv")
    assert line.endswith("or pass submission=false to write no submission.")
    assert not (tmp_path / "out").exists()
    status, _, errors = rerank(*stores, "output=out", "submission=false", "report=0")
    assert (status, errors) == (0, "")
    assert not (tmp_path / "out" / "submission.csv").exists()
    assert Rankings.open(tmp_path / "out").rows[:, 0].tolist() == [0, 1]


def test_no_metrics_without_landmarks(rerank, world, tmp_path):
    for name in ("query", "gallery"):
        store = DescriptorStore.open(world / name)
        DescriptorStore.write(tmp_path / name, store.ids, store.vectors)
    stores = [f"{name}={tmp_path / name}" for name in ("query", "gallery")]
    status, printed, errors = rerank(*stores, "rerank=[]", "output=out")
    assert status == 0, errors
    assert "mAP" not in printed
    metrics = Rankings.open(tmp_path / "out").metrics
    assert list(metrics) == ["steps", "protocol"]
    assert list(metrics["steps"][0]) == ["step", "seconds", "peak_bytes"]
    assert metrics["protocol"]["ground_truth"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["query=nowhere"], ["nowhere"]),
        (["search=[flat,flat]"], ["search", "accepts one choice"]),
        (["rerank=[alpha_qe,alpha_qe]"], ["alpha_qe,alpha_qe", "once"]),
        (["rerank=[alpha_q]"], ["alpha_q"]),
        (["rerank=[alpha_qe]", "rerank.alpha_qe.alfa=2"], ["alfa", "alpha"]),
        (["rerank=two_stage", "train=null"], ["two_stage", "train=STORE"]),
        (["rerank=alpha_qe", "k=5"], ["alpha_qe.n=10", "Pass k=10"]),
        (["rerank=aqe_decay", "k=5"], ["aqe_decay.n=10", "Pass k=10"]),
        (["rerank=superglobal", "k=50"], ["superglobal.m=400", "Pass k=400"]),
        (["rerank=egt", "rerank.egt.k=many"], ["rerank.egt.k=many", "whole number"]),
        (["rerank=diffusion", "rerank.diffusion.alpha=1"], ["diffusion.alpha=1", "< 1"]),
        (["rerank=rank_fusion"], ["rank_fusion", "nothing to fuse"]),
        (["rerank=rank_fusion", "rerank.rank_fusion.rankings=[nowhere]"], ["nowhere"]),
        (["rerank=rank_fusion", "rerank.rank_fusion.rankings=here"], ["rankings=here", "list"]),
        (["k=0"], ["k=0"]),
        (["gallery=???"], ["missing required setting 'gallery'"]),
        (["output=taken"], ["taken", "overwrite=true"]),
    ],
    ids=" ".join,
)
def test_a_user_error_is_one_line_and_status_2(rerank, world, tmp_path, arguments, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    status, _, errors = rerank(*stores_of(world), "output=out", *arguments)
    assert status == 2, errors
    assert len(errors.splitlines()) == 1, errors
    for word in words:
        assert word in errors
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_inconsistent_stores_are_refused(world, tmp_path):
    query = DescriptorStore.open(world / "query")
    DescriptorStore.write(tmp_path / "other", query.ids, query.vectors, embedder="xyz")
    with pytest.raises(UserError, match=r"embedder xyz.*allow_mixed=true"):
        Stores.open(tmp_path / "other", world / "gallery")
    assert len(Stores.open(tmp_path / "other", world / "gallery", allow_mixed=True).query) == 12
    narrow = np.ones((12, 1), "f4")
    DescriptorStore.write(tmp_path / "narrow", query.ids, narrow)
    with pytest.raises(UserError, match="has 1 dimensions"):
        Stores.open(tmp_path / "narrow", world / "gallery", allow_mixed=True)
    with pytest.raises(UserError, match="no landmark_id to learn from"):
        Stores.open(world / "query", world / "gallery", tmp_path / "other", allow_mixed=True)


def test_unknown_landmarks_have_no_relevant_photos():
    truth = LandmarkGroundTruth(
        np.array(["a", None, ""], object), np.array(["", "a", None, "b"], object)
    )
    rows = np.array([[0, 1, 2], [0, 2, 1], [0, 2, 1]])
    assert truth.evaluate(rows).metrics["map_at_100"] == pytest.approx(0.5)  # only the first query
    assert truth.evaluate(rows).metrics["top_1"] == 0


def test_ground_truth_is_reordered_to_match_the_stores(world, tmp_path):
    image_table = pytest.importorskip("landmark.data.image_table")
    pandas = pytest.importorskip("pandas")
    stores = opened(world)
    random = np.random.default_rng(1)
    queries, photos = random.permutation(12), random.permutation(60)[:50]  # 10 are distractors
    truth = [
        {
            key: random.permutation(50)[:size]
            for key, size in (("easy", 3), ("hard", 4), ("junk", 2))
        }
        for _ in range(12)
    ]
    tables = [
        image_table.ImageTable(tmp_path, pandas.DataFrame({"id": ids}), truth)
        for ids in (stores.query.ids[queries], stores.gallery.ids[photos])
    ]
    found = find_ground_truth(stores.query, stores.gallery, *tables)
    assert isinstance(found, RevisitedGroundTruth)
    rows = stores.search(Flat(), 60).rows
    in_store = [{key: photos[listed] for key, listed in truth[i].items()} for i in range(12)]
    expected = revisited.evaluate(rows[queries], in_store)
    assert found.distractors == 10
    assert found.evaluate(rows).metrics == pytest.approx(
        {name: expected[name]["map"] for name in ("easy", "medium", "hard")}
    )


def test_landmarks_of_a_data_set_override_those_of_the_stores(world, tmp_path):
    image_table = pytest.importorskip("landmark.data.image_table")
    pandas = pytest.importorskip("pandas")
    stores = opened(world)
    tables = [
        image_table.ImageTable(
            tmp_path, pandas.DataFrame({"id": store.ids[::-1], "landmark_id": "everywhere"})
        )
        for store in (stores.query, stores.gallery)
    ]
    rows = stores.search(Flat(), 60).rows
    of_data = find_ground_truth(stores.query, stores.gallery, *tables)
    of_stores = find_ground_truth(stores.query, stores.gallery)
    assert of_data.evaluate(rows).metrics["map_at_100"] == pytest.approx(1)
    assert of_stores.evaluate(rows).metrics["map_at_100"] < 0.99


def test_a_retrieval_from_stores_carries_the_train_photos(world):
    stores = opened(world)
    found = stores.search(Flat(), 7)
    assert isinstance(found, Retrieval)
    assert found.rows.shape == (12, 7)
    assert found.train_landmark_ids.tolist() == stores.train.landmark_ids.tolist()

"""Ground truth by position and metrics at any k: from tables to rankings, against naive loops."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.cli.compare import compare
from landmark.error import UserError
from landmark.score.evaluation import Cutoffs
from landmark.score.gldv2 import score_retrieval
from landmark.score.ground_truth import LandmarkGroundTruth
from landmark.score.places import PlaceGroundTruth, score_places

QUERIES, PHOTOS = 8, 60


def naive(rows, query, gallery, radius, k, own=None):
    """Average precision at k and recalls at 1, 5 and 10 of each query, photo by photo."""
    precisions, recalls = [], {1: [], 5: [], 10: []}
    for one, ranking in enumerate(rows.tolist()):
        ranking = [row for row in ranking if own is None or row != own[one]]  # noqa: PLW2901
        near = [
            row
            for row in range(len(gallery))
            if np.hypot(*(gallery[row] - query[one])) <= radius and (own is None or row != own[one])
        ]
        found, total = 0, 0.0
        for place, row in enumerate(ranking[:k], start=1):
            if row in near:
                found += 1
                total += found / place
        precisions.append(total / min(len(near), k) if near else np.nan)
        for at, values in recalls.items():
            values.append(float(any(row in near for row in ranking[:at])))
    return np.array(precisions), {at: np.mean(values) for at, values in recalls.items()}


def places(seed):
    random = np.random.default_rng(seed)
    gallery = 5e5 + 200 * random.random((PHOTOS, 2))
    query = gallery[:QUERIES] + 30 * random.standard_normal((QUERIES, 2))
    query[0] = gallery[0] + 1
    query[1] += 1e4  # no positive
    return query, gallery, np.stack([random.permutation(PHOTOS) for _ in range(QUERIES)])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([3, 20, 1000]), has_own=st.booleans())
def test_metrics_equal_a_loop(seed, k, has_own):
    query, gallery, rows = places(seed)
    own = np.full(QUERIES, -1)
    ranked = rows
    if has_own:
        own[:4] = [0, 1, 2, 3]
        ranked = np.array([[r for r in line if r != o][: PHOTOS - 1] for line, o in zip(rows, own)])  # noqa: B905
    cutoffs = Cutoffs.of(k, None, (1, 5, 10))
    truth = PlaceGroundTruth(query, gallery, 25.0, own_rows=own, cutoffs=cutoffs)
    metrics, precisions = truth.evaluate(ranked)
    expected, recalls = naive(ranked, query, gallery, 25.0, k, own)
    assert truth.headline == f"map_at_{k}"
    np.testing.assert_allclose(precisions[truth.headline], expected, atol=1e-12)
    assert metrics[truth.headline] == pytest.approx(np.nanmean(expected))
    for at, value in recalls.items():
        assert metrics[f"recall_at_{at}"] == pytest.approx(value)
    labels = truth.relevance_labels(np.arange(QUERIES), np.where(rows > 50, -1, rows))
    for one, place in np.ndindex(rows.shape):
        row = rows[one, place]
        near = np.hypot(*(gallery[row] - query[one])) <= 25
        assert labels[one, place] == ("" if row > 50 else "right" if near else "wrong")


def test_queries_without_positives_are_counted_in_a_notice(capsys):
    query, gallery, _ = places(0)
    PlaceGroundTruth(query, gallery, 25.0)
    assert "of 8 queries have no gallery photo within 25 m" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no query has a gallery photo within 25 m"):
        PlaceGroundTruth(query + 1e6, gallery, 25.0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_landmarks_have_the_mean_average_precision_and_recall_at_any_k(seed):
    random = np.random.default_rng(seed)
    query, gallery = random.integers(0, 4, 6), random.integers(0, 3, 300)
    query[0] = 0
    rows = np.stack([random.permutation(300) for _ in query])
    truth = LandmarkGroundTruth(query, gallery, cutoffs=Cutoffs((250, 100), (1, 4)))
    metrics, precisions = truth.evaluate(rows)
    names = ["map_at_250", "map_at_100", "recall_at_1", "recall_at_4", "precision_at_10", "top_1"]
    assert list(metrics) == names
    for k in (250, 100):
        for one, landmark in enumerate(query):
            right = gallery[rows[one, :k]] == landmark
            total = sum(right[: place + 1].mean() for place in np.flatnonzero(right))
            relevant = min(k, int((gallery == landmark).sum()))
            value = precisions[f"map_at_{k}"][one]
            assert np.isnan(value) if not relevant else value == pytest.approx(total / relevant)
    has_positives = np.isin(query, gallery)
    found = (gallery[rows[:, :4]] == query[:, None]).any(axis=1)
    assert metrics["recall_at_4"] == pytest.approx(found[has_positives].mean())
    assert metrics["recall_at_1"] == metrics["top_1"]


# --- from tables and stores ---


@pytest.fixture
def world(tmp_path):
    """Stores of queries and gallery, and a table with the positions of their photos."""
    query, gallery, _ = places(3)
    random = np.random.default_rng(0)
    root = tmp_path / "places"
    root.mkdir()
    frames = []
    for name, split, xy in (("q", "query", query), ("g", "gallery", gallery)):
        vectors = random.standard_normal((len(xy), 16)).astype("f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [f"{name}{number}" for number in range(len(xy))]
        DescriptorStore.write(tmp_path / split, ids, vectors)
        east, north = xy.T
        columns = {"id": ids, "path": "x.jpg", "split": split, "utm_east": east, "utm_north": north}
        frames.append(pd.DataFrame(columns))
    table = pd.concat(frames).sample(frac=1, random_state=0)
    table.to_csv(root / "table.csv", index=False)
    return tmp_path, root, table, query, gallery


def test_rerank_and_score_use_the_positions_of_the_table(rerank, in_process, world):
    folder, root, _, query, gallery = world
    options = ["query=query", "gallery=gallery", "data=table", f"data.root={root}", "report=3"]
    status, printed, _ = rerank(*options, "output=ranked", "rerank=[alpha_qe]", "map_at=[20,100]")
    assert status == 0
    ranked = Rankings.open(folder / "ranked")
    expected, recalls = naive(ranked.rows, query, gallery, 25.0, 20)
    assert ranked.metrics["map_at_20"] == pytest.approx(np.nanmean(expected))
    for at, value in recalls.items():
        assert ranked.metrics[f"recall_at_{at}"] == pytest.approx(value)
    assert "mAP@20" in printed
    assert "recall@5" in printed
    assert ranked.metrics["protocol"]["measures"][0] == "map_at_20"
    assert ranked.metrics["protocol"]["radius"] == 25.0
    page = (folder / "ranked" / "report.html").read_text()
    assert "recall@10" in page
    where = ["rankings=ranked", f"ground_truth={root / 'table.csv'}"]
    status, printed, _ = in_process("score.py", "task=place", *where, "map_at=20")
    assert status == 0
    scored = json.loads(printed)
    assert scored.pop("queries") == QUERIES
    assert scored == pytest.approx({name: ranked.metrics[name] for name in scored})
    assert list(scored) == ["map_at_20", "recall_at_1", "recall_at_5", "recall_at_10"]
    status, printed, _ = in_process("score.py", "task=place", *where, "radius=60", "recall_at=[2]")
    expected, _ = naive(ranked.rows, query, gallery, 60.0, 100)
    assert json.loads(printed)["map_at_100"] == pytest.approx(np.nanmean(expected))


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        (
            "utm_east",
            "g7",
            "",
            "utm_east of the gallery photo 'g7' is missing or not finite (1 of 60",
        ),
        ("utm_north", "q2", "inf", "is not a number of metres"),
        ("utm_north", "q2", "north", "utm_north north in row"),
        ("utm_north", "q2", None, "the table has no column utm_north"),
    ],
)
def test_positions_that_are_missing_or_not_finite(rerank, world, column, row, value, message):
    folder, root, table, *_ = world
    if value is None:
        table = table.drop(columns=column)
    else:
        table = table.astype({column: object})
        table.loc[table["id"] == row, column] = value
    table.to_csv(root / "table.csv", index=False)
    options = ["query=query", "gallery=gallery", "data=table", f"data.root={root}", "output=ranked"]
    status, _, printed = rerank(*options)
    assert status == 2
    assert message in printed.splitlines()[-1]
    assert not (folder / "ranked").exists()


def test_metrics_without_ground_truth_are_refused(rerank, world):
    status, _, printed = rerank("query=query", "gallery=gallery", "output=a", "map_at=50")
    assert status == 2
    assert "map_at=50 and recall_at=None need landmarks in the stores" in printed


def test_radius_null_uses_the_landmarks(rerank, world):
    folder, root, table, *_ = world
    table = table.assign(landmark_id=["a", "b"] * (len(table) // 2))
    table.to_csv(root / "table.csv", index=False)
    options = ["query=query", "gallery=gallery", "data=table", f"data.root={root}", "radius=null"]
    assert rerank(*options, "output=ranked")[0] == 0
    metrics = Rankings.open(folder / "ranked").metrics
    assert "top_1" in metrics
    assert "recall_at_1" not in metrics


def ranking(folder, query, rows, ids=None):
    scores = np.zeros(rows.shape, "f4")
    gallery_ids = np.array([f"g{number}" for number in range(PHOTOS)])
    folder.mkdir()
    Rankings(rows.astype(np.int32), scores, np.array(query), gallery_ids).write_into(folder)
    return folder


def test_score_leaves_out_the_querys_own_photo(tmp_path, capsys):
    query, gallery, rows = places(5)
    query[:3], own = gallery[:3], np.array([0, 1, 2])
    names = ["g0", "g1", "g2", *(f"q{number}" for number in range(3, QUERIES))]
    folder = ranking(tmp_path / "ranked", names, rows)
    ids = [f"g{n}" for n in range(PHOTOS)] + names[3:]
    xy = np.concatenate([gallery, query[3:]])
    table = pd.DataFrame({"id": ids, "utm_east": xy[:, 0], "utm_north": xy[:, 1]})
    table.to_parquet(tmp_path / "table.parquet")
    scored = score_places(tmp_path / "table.parquet", folder)
    own = np.concatenate([own, np.full(QUERIES - 3, -1)])
    expected, recalls = naive(rows, query, gallery, 25.0, 100, own)
    assert scored["map_at_100"] == pytest.approx(np.nanmean(expected))
    assert scored["recall_at_5"] == pytest.approx(recalls[5])
    assert "3 of 8 rankings contain the query's own photo" in capsys.readouterr().err
    kept = score_places(tmp_path / "table.parquet", folder, allow_self=True)
    expected, _ = naive(rows, query, gallery, 25.0, 100)
    assert kept["map_at_100"] == pytest.approx(np.nanmean(expected))


def test_rankings_that_end_before_k_are_refused(tmp_path):
    query, gallery, rows = places(5)
    names = [f"q{number}" for number in range(QUERIES)]
    folder = ranking(tmp_path / "ranked", names, rows[:, :10])
    xy = np.concatenate([query, gallery])
    ids = [*names, *(f"g{n}" for n in range(PHOTOS))]
    table = tmp_path / "table.csv"
    frame = pd.DataFrame({"id": ids, "utm_east": xy[:, 0], "utm_north": xy[:, 1]})
    frame.to_csv(table, index=False)
    with pytest.raises(UserError, match=r"ranks 10 of 60 photos, too few for k=30. Rank .* k=30"):
        score_places(table, folder, map_at=30)
    assert "map_at_10" in score_places(table, folder)  # named after what is ranked
    frame.iloc[:-1].to_csv(table, index=False)
    with pytest.raises(UserError, match=r"does not list the gallery photo 'g59' \(1 of 60\)"):
        score_places(table, folder)
    frame.drop(columns="utm_north").to_csv(table, index=False)
    with pytest.raises(UserError, match="has no column utm_north"):
        score_places(table, folder)


# --- k of the commands ---


def test_rerank_ranks_as_many_photos_as_the_metrics_count(rerank, tmp_path):
    random = np.random.default_rng(0)
    for name, count in (("query", 5), ("gallery", 400)):
        vectors = random.standard_normal((count, 8)).astype("f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [f"{name}{number}" for number in range(count)]
        DescriptorStore.write(tmp_path / name, ids, vectors, [str(n % 3) for n in range(count)])
    options = ["query=query", "gallery=gallery", "report=0"]
    assert rerank(*options, "output=a", "map_at=300", "recall_at=[1,200]")[0] == 0
    ranked = Rankings.open(tmp_path / "a")
    assert ranked.rows.shape == (5, 300)
    names = ["map_at_300", "recall_at_1", "recall_at_200", "precision_at_10", "top_1"]
    assert list(ranked.metrics)[:5] == names
    status, _, printed = rerank(*options, "output=b", "map_at=300", "k=50")
    assert status == 2
    assert "k=50 is too few for map_at or recall_at 300. Pass k=300, or leave out k." in printed
    assert rerank(*options, "output=c", "map_at=1000")[0] == 0  # the complete gallery
    assert Rankings.open(tmp_path / "c").rows.shape == (5, 400)
    assert rerank(*options, "output=d")[0] == 0
    plain = Rankings.open(tmp_path / "d")
    assert plain.rows.shape == (5, 100)
    assert list(plain.metrics)[:3] == ["map_at_100", "precision_at_10", "top_1"]
    status, _, printed = rerank(*options, "output=e", "map_at=0")
    assert status == 2
    assert "map_at=0 is not valid" in printed
    table = compare(["--k", "300", f"one={tmp_path / 'a'}"]).splitlines()
    assert "mAP@300" in table[0]
    assert f"{ranked.metrics['map_at_300']:.4f}" in table[1]
    with pytest.raises(UserError, match=r"was scored with mAP@300, not mAP@100. Pass --k 300"):
        compare([f"one={tmp_path / 'a'}"])


def test_official_scores_have_further_k(tmp_path, in_process):
    images = [f"i{number}" for number in range(300)]
    solution, submission = tmp_path / "solution.csv", tmp_path / "submission.csv"
    solution.write_text("id,images,Usage\na,i150 i2 i299,Public\nb,i0,Public\n")
    submission.write_text(f"id,images\na,{' '.join(images)}\nb,i5\n")
    plain = score_retrieval(solution, submission)["public"]
    more = score_retrieval(solution, submission, map_at=1000, recall_at=[1, 200])["public"]
    assert {name: more[name] for name in plain} == plain
    expected = (1 / 3 + 2 / 151 + 3 / 300) / 3 / 2
    assert more["mean_average_precision_at_1000"] == pytest.approx(expected)
    assert (more["recall_at_1"], more["recall_at_200"]) == (0, 0.5)
    files = [f"solution={solution}", f"submission={submission}"]
    status, printed, _ = in_process("score.py", "task=retrieval", *files, "map_at=[1000]")
    assert status == 0
    assert json.loads(printed)["public"]["mean_average_precision_at_1000"] == pytest.approx(
        expected
    )
    status, _, printed = in_process("score.py", "task=recognition", *files, "map_at=5")
    assert status == 2
    assert "map_at=5 is not of task=recognition" in printed

"""recognize.py end to end on small stores: its output, files and errors."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ranks import run_ranks

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.artifact.recognition import Recognition
from landmark.artifact.submission import read_recognition_submission, write_recognition
from landmark.error import UserError
from landmark.recognize import Recognizer
from landmark.recognize.evaluation import gap_and_top_1
from landmark.recognize.stores import RecognitionStores
from landmark.search import Flat
from landmark.search.sharded import shard_search
from landmark.verify import Verification

LANDMARKS, DIM = 12, 16


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Write stores of photos scattered around 12 landmarks, and of distractors."""
    folder = tmp_path_factory.mktemp("stores")
    random = np.random.default_rng(0)
    centres = random.standard_normal((LANDMARKS, DIM))
    for name, photos in (("train", 90), ("query", 60), ("validation", 150)):
        # The last three landmarks are not in train.
        numbers = random.integers(0, LANDMARKS if name != "train" else LANDMARKS - 3, photos)
        vectors = unit(centres[numbers] + 0.9 * random.standard_normal((photos, DIM)))
        landmarks = [f"{number}" for number in numbers]
        if name == "query":
            landmarks = ["" if number >= LANDMARKS - 2 else f"{number}" for number in numbers]
        ids = [f"{name}{row}" for row in range(photos)]
        DescriptorStore.write(folder / name, ids, vectors, landmarks, embedder="abc")
    noise = unit(random.standard_normal((30, DIM)))
    DescriptorStore.write(folder / "noise", [f"n{i}" for i in range(30)], noise, embedder="abc")
    other = unit(random.standard_normal((30, DIM)))
    DescriptorStore.write(folder / "other", [f"n{i}" for i in range(30)], other, embedder="xyz")
    return folder


@pytest.fixture(scope="module")
def opened(world):
    return RecognitionStores.open(world / "query", world / "train")


def stores_of(world, query="query"):
    return [f"query={world / query}", f"train={world / 'train'}"]


def error_of(result):
    status, _, errors = result
    assert status == 2, errors
    assert errors.count("\n") == 1, errors
    return errors


def test_the_output_is_that_of_the_recognizer(recognize, in_process, world, opened, tmp_path):
    status, printed, errors = recognize(*stores_of(world), "k=5", "temperature=0.1", "output=out")
    assert status == 0, errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "meta.json",
        "metrics.json",
        "precision_recall.png",
        "predictions.parquet",
        "report.html",
        "submission.csv",
    ]
    found = Recognizer(k=5, temperature=0.1)(
        opened.query.vectors, Flat().build(opened.train.vectors), opened.codes
    )
    read = Recognition.open(tmp_path / "out")
    assert read.landmarks.tolist() == opened.names[found.landmarks].tolist()
    np.testing.assert_allclose(read.scores, found.scores)
    assert set(read.truth) == {""} | {f"{number}" for number in range(LANDMARKS - 3)}
    lines = printed.splitlines()
    metrics = read.metrics
    assert lines[1].startswith(f"1-nn        GAP {metrics['nearest']['gap']:.4f}")
    assert f"GAP {metrics['gap']:.4f}   top-1 {metrics['top_1']:.4f}" in lines[2]
    assert lines[3].startswith(f"{metrics['positives']} of 60 queries show a landmark of train")
    assert lines[-1] == "wrote out"
    # The same as the official metric of the submission.
    pd.DataFrame({"id": read.ids, "landmarks": read.truth, "Usage": "Private"}).to_csv(
        tmp_path / "solution.csv", index=False
    )
    files = ("solution=solution.csv", "submission=out/submission.csv")
    status, printed, errors = in_process("score.py", "task=recognition", *files)
    assert status == 0, errors
    official = json.loads(printed)["private"]
    assert official["gap"] == pytest.approx(metrics["gap"], abs=1e-12)
    assert official["top1_accuracy"] == pytest.approx(metrics["top_1"], abs=1e-12)


def test_a_landmark_that_train_lacks_is_none(world, opened):
    ids = pd.Series(opened.query.landmark_ids)
    assert (opened.truth[(ids == f"{LANDMARKS - 3}") | (ids == "")] == "").all()
    assert (opened.truth[ids.isin(opened.names)] == ids[ids.isin(opened.names)]).all()


def test_a_calibrated_recognition_leaves_out_what_is_uncertain(
    recognize, in_process, world, tmp_path
):
    assert recognize(*stores_of(world, "validation"), "output=val", "report=0")[0] == 0
    status, printed, errors = in_process("fit.py", "fit=calibration", "train=val", "output=cal")
    assert status == 0, errors
    assert re.match(r"150 queries, \d+ recognized   precision 0.9: score >= ", printed)
    plain = recognize(*stores_of(world), "output=plain", "report=0")
    assert plain[0] == 0
    calibrated = ("calibration=cal", "precision=0.9")
    status, printed, errors = recognize(*stores_of(world), *calibrated, "output=out", "report=3")
    assert status == 0, errors
    found, plain = Recognition.open(tmp_path / "out"), Recognition.open(tmp_path / "plain")
    assert found.metrics["all_predictions"] == {
        key: plain.metrics[key] for key in ("gap", "top_1")
    }  # Platt's function keeps the order
    submitted = read_recognition_submission(tmp_path / "out" / "submission.csv")
    kept = found.scores >= found.metrics["threshold"]
    assert submitted.ids.tolist() == found.ids[kept].tolist()
    np.testing.assert_array_equal(submitted.scores, found.confidences[kept])
    assert 0 < kept.sum() < 60
    assert found.metrics["predictions"] == kept.sum()
    assert found.metrics["precision"] == pytest.approx(found.is_correct[kept].mean())
    assert found.metrics["recall"] == pytest.approx(found.is_correct[kept].sum() / found.positives)
    expected = gap_and_top_1(
        found.ids, np.where(kept, found.landmarks, ""), found.scores, found.truth
    )
    assert {key: found.metrics[key] for key in expected} == pytest.approx(expected)
    assert f"precision 0.9: {kept.sum()} of 60 predictions kept" in printed
    # Settings that change the scores are named; the location of stores is not one.
    error = error_of(recognize(*stores_of(world), *calibrated, "k=5", "output=no"))
    assert "different k (30, now 5)" in error
    noise = f"distractors={world / 'noise'}"
    assert "distractors (null" in error_of(recognize(*stores_of(world), *calibrated, noise))
    high = ("calibration=cal", "precision=0.999")
    assert "cannot be reached" in error_of(recognize(*stores_of(world), *high, "output=no"))
    assert not (tmp_path / "no").exists()


def test_only_a_recognition_is_calibrated(in_process, world):
    error = error_of(
        in_process("fit.py", "fit=calibration", f"train={world / 'train'}", "output=cal")
    )
    assert "is not the output of a recognition" in error


def test_own_photos_do_not_vote(recognize, world, tmp_path):
    train = f"train={world / 'train'}"
    status, _, errors = recognize(f"query={world / 'train'}", train, "output=out", "report=0")
    assert status == 0
    assert "90 of 90 queries are also in train" in errors
    status, _, errors = recognize(
        f"query={world / 'train'}", train, "output=self", "report=0", "allow_self=true", "k=1"
    )
    assert status == 0
    assert Recognition.open(tmp_path / "self").metrics["top_1"] == 1
    assert Recognition.open(tmp_path / "out").metrics["top_1"] < 1


def test_held_out_landmarks_do_not_vote(recognize, world, tmp_path):
    arguments = ("hold_out=0.34", "seed=3", "output=out", "report=0")
    assert recognize(*stores_of(world), *arguments)[0] == 0
    found = Recognition.open(tmp_path / "out")
    stores = RecognitionStores.open(world / "query", world / "train", hold_out=0.34, seed=3)
    assert len(stores.names) == 6
    assert set(found.landmarks) <= set(stores.names)
    assert set(found.truth) <= {"", *stores.names}
    voting = stores.train.landmark_ids[stores.codes >= 0]
    assert set(voting) == set(stores.names)
    assert (stores.names[stores.codes[stores.codes >= 0]] == voting).all()
    other = RecognitionStores.open(world / "query", world / "train", hold_out=0.34, seed=4)
    assert set(other.names) != set(stores.names)


def test_distractors_lower_the_scores_of_what_resembles_them(recognize, world, tmp_path):
    noise = f"distractors={world / 'noise'}"
    arguments = (noise, "temperature=null", "rival=0", "k=3", "output=out", "report=0")
    status, printed, errors = recognize(*stores_of(world), *arguments)
    assert status == 0, errors
    assert printed.startswith("60 query, 90 train, 30 distractors photos, 16-d")
    query, train, noise = (
        np.asarray(DescriptorStore.open(world / name).vectors, float)
        for name in ("query", "train", "noise")
    )
    of_train = np.sort(train @ noise.T, axis=1)[:, -5:].mean(axis=1)
    of_query = np.sort(query @ noise.T, axis=1)[:, -10:].mean(axis=1)
    weights = np.clip(query @ train.T, 0, 1) - of_train
    landmarks = DescriptorStore.open(world / "train").landmark_ids
    found = Recognition.open(tmp_path / "out")
    for row in range(60):
        best = np.argsort(-weights[row])[:3]
        votes = pd.Series(weights[row, best]).groupby(landmarks[best]).sum()
        assert found.landmarks[row] == votes.idxmax()
        assert found.scores[row] == pytest.approx(votes.max() - of_query[row], abs=1e-5)


class CountEqualScores:
    """A verifier for tests: inliers are the number of the photo's features."""

    features, false_rate = "mine", 0.01

    def __call__(self, a, b):
        none = np.zeros((0, 2), np.int64), np.zeros(0, bool)
        return Verification(0.0, min(len(a.keypoints), len(b.keypoints)), *none, model=None)


def with_local(source, path, counts, **recorded):
    store = DescriptorStore.open(source)
    DescriptorStore.write(path, store.ids, store.vectors, store.landmark_ids, embedder="abc")
    store = DescriptorStore.open(path)
    with LocalFeatureWriter.writing(store, "mine", dim=4, columns=2, **recorded) as writer:
        for count in counts:
            keypoints = np.zeros((count, 2), "f4")
            descriptors, scores = np.zeros((count, 4), "u1"), np.zeros(count, "f4")
            writer.append(LocalFeatures(keypoints, descriptors, scores, size=(9, 9)))
        writer.save()
    return store


def test_verified_photos_vote_with_their_inliers(recognize, world, tmp_path):
    counts = np.random.default_rng(0).integers(0, 90, 90)
    with_local(world / "train", tmp_path / "train", counts)
    with_local(world / "query", tmp_path / "query", np.full(60, 100))
    (tmp_path / "own" / "verify").mkdir(parents=True)
    (tmp_path / "own" / "verify" / "mine.yaml").write_text(
        f"_target_: {__name__}.CountEqualScores\n"
    )
    arguments = ("verify=mine", "k=4", "verified=8", "output=out", "--config-dir", "own")
    status, _, errors = recognize("query=query", "train=train", *arguments)
    assert status == 0, errors
    found = Recognition.open(tmp_path / "out")
    stores = RecognitionStores.open(tmp_path / "query", tmp_path / "train")
    expected = Recognizer(k=4, verified=8)(
        stores.query.vectors,
        Flat().build(stores.train.vectors),
        stores.codes,
        count_inliers=lambda pairs: np.minimum(counts[pairs[:, 1]], 100),
    )
    np.testing.assert_allclose(found.scores, expected.scores)
    assert 'title="inliers"' in (tmp_path / "out" / "report.html").read_text()
    with_local(world / "query", tmp_path / "other", np.full(60, 100), top_k=3)
    error = error_of(recognize("query=other", "train=train", "overwrite=true", *arguments))
    assert "other has local features 'mine' with top_k 3, and train with None." in error
    without = ("verify=mine", "output=no", "--config-dir", "own")
    error = error_of(recognize(*stores_of(world), *without))
    assert "has no local features 'mine'" in error


def test_class_centres_vote(recognize, world, tmp_path):
    for name, more in (("plain", ()), ("out", ("centres=means", "centre_weight=2"))):
        arguments = ("k=1", "temperature=null", "rival=0", f"output={name}", "report=0")
        assert recognize(*stores_of(world), *arguments, *more)[0] == 0
    plain, found = (Recognition.open(tmp_path / name) for name in ("plain", "out"))
    assert (found.scores != plain.scores).all()
    error = error_of(recognize(*stores_of(world), f"centres={world}", "output=no"))
    assert "is not an embedder of a finished run" in error


def test_the_report_shows_confident_errors_first(recognize, world, tmp_path):
    train = tmp_path / "train"
    store = DescriptorStore.open(world / "train")
    DescriptorStore.write(
        train, store.ids, store.vectors, store.landmark_ids, root=str(tmp_path), embedder="abc"
    )
    Image.new("RGB", (30, 20), (200, 30, 90)).save(tmp_path / "photo.jpg")
    rows = pd.read_parquet(train / "ids.parquet")
    rows.assign(path="photo.jpg").to_parquet(train / "ids.parquet", index=False)
    arguments = (f"query={world / 'query'}", f"train={train}", "output=out", "report=4")
    status, _, errors = recognize(*arguments)
    assert status == 0, errors
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    found = Recognition.open(tmp_path / "out")
    wrong = found.is_predicted & ~found.is_correct
    ranked = found.ids[np.flatnonzero(wrong)[np.argsort(-found.scores[wrong], kind="stable")]]
    right = found.ids[np.flatnonzero(found.is_correct)[np.argsort(-found.scores[found.is_correct])]]
    shown = re.findall(r'<p class="id">(.*?)</p>', page)
    assert shown == [*ranked[:4], *right[:5]]
    assert f"4 of {wrong.sum()} wrong predictions" in page
    assert f"The GAP is {found.metrics['gap']:.4f}" in page
    assert page.count("background-image:url(data:image/jpeg") > 0
    assert "does not record where its photos are" in page
    assert "http" not in page.replace("http-equiv", "")


def test_queries_without_landmarks_have_no_metrics(recognize, world, tmp_path):
    store = DescriptorStore.open(world / "query")
    DescriptorStore.write(tmp_path / "query", store.ids, store.vectors, embedder="abc")
    status, printed, errors = recognize("query=query", f"train={world / 'train'}", "output=out")
    assert status == 0, errors
    assert "GAP" not in printed
    found = Recognition.open(tmp_path / "out")
    assert found.truth is None
    assert found.metrics == {}
    assert not (tmp_path / "out" / "precision_recall.png").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "lowest score first" in page


def test_bad_input_is_one_line(recognize, world, tmp_path):
    query, train = stores_of(world)
    noise = f"distractors={world / 'other'}"
    assert "has embedder" in error_of(recognize(query, train, noise, "output=out"))
    assert "k=91 is more than the 90 photos" in error_of(recognize(query, train, "k=91"))
    assert "leaves none of the 9" in error_of(recognize(query, train, "hold_out=0.99"))
    unknown = f"train={world / 'noise'}"
    assert "has no landmark_id" in error_of(recognize(query, unknown, "output=out"))
    store = DescriptorStore.open(world / "train")
    for name, landmark in (("empty", ""), ("blank", "the arch"), ("decimal", "1.5")):
        ids = np.full(len(store), landmark)
        DescriptorStore.write(tmp_path / name, store.ids, store.vectors, ids, embedder="abc")
    assert "no photo has a landmark" in error_of(recognize(query, "train=empty", "output=out"))
    for name in ("blank", "decimal"):
        error = error_of(recognize(query, f"train={name}", "output=out"))
        assert "submission=false" in error
    missing = ("calibration=nowhere", "output=out")
    assert "is not a calibration" in error_of(recognize(query, train, *missing))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert "already exists" in error_of(recognize(query, train, "output=full"))
    error = error_of(recognize(query, train, "output=full", "overwrite=true"))
    assert "predictions.parquet" in error
    assert not (tmp_path / "out").exists()
    assert recognize(query, "train=blank", "submission=false", "report=0", "output=out")[0] == 0
    assert not (tmp_path / "out" / "submission.csv").exists()


def test_a_written_submission_is_read_back(tmp_path):
    random = np.random.default_rng(0)
    scores = random.random(50)
    landmarks = np.where(random.random(50) < 0.3, "", random.integers(0, 9, 50).astype(str))
    made = Recognition(np.array([f"q{i}" for i in range(50)]), landmarks, scores)
    write_recognition(tmp_path / "submission.csv", made)
    read = read_recognition_submission(tmp_path / "submission.csv")
    assert read.ids.tolist() == made.ids[made.is_predicted].tolist()
    assert read.landmarks.tolist() == landmarks[made.is_predicted].tolist()
    np.testing.assert_array_equal(read.scores, scores[made.is_predicted])
    wrong = Recognition(made.ids, np.where(made.is_predicted, "a b", ""), scores)
    with pytest.raises(UserError, match="'a b' cannot be predicted"):
        write_recognition(tmp_path / "wrong.csv", wrong)


def test_the_official_metrics_of_reference_files(shared):
    folder = shared / "reference" / "gldv2_metrics"
    expected = json.loads((folder / "expected.json").read_text())
    solution = pd.read_csv(folder / "recognition_solution.csv", dtype=str).fillna("")
    predicted = pd.read_csv(folder / "recognition_submission.csv", dtype=str).fillna("")
    parts = predicted.set_index("id")["landmarks"].str.split(" ", expand=True)
    for usage in ("Public", "Private"):
        part = solution[solution["Usage"] == usage]
        ids = part["id"].to_numpy(str)
        answers = [set(text.split()) for text in part["landmarks"]]
        landmarks = parts[0].reindex(ids).fillna("").to_numpy(str)
        scores = pd.to_numeric(parts[1]).reindex(ids).to_numpy(float)
        # The metric here knows one landmark per query: of several take the predicted one.
        truth = np.array(
            [
                one if one in names else min(names, default="")
                for one, names in zip(landmarks, answers, strict=True)
            ]
        )
        found = gap_and_top_1(ids, landmarks, scores, truth)
        official = expected[usage.lower()]
        assert found["gap"] == pytest.approx(official["gap"], abs=1e-9)
        assert found["top_1"] == pytest.approx(official["top1_accuracy"], abs=1e-9)


def _recognize_in_ranks(rank, folder, port):
    import torch.distributed

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    stores = RecognitionStores.open(folder / "query", folder / "train", folder / "noise")
    search = shard_search(Flat(device="cpu"))
    found = Recognizer(k=3)(
        stores.query.vectors,
        search.build(stores.train.vectors),
        stores.codes,
        distractors=search.build(stores.distractors.vectors),
    )
    np.save(folder / f"scores{rank}.npy", found.scores)
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_one_process(world):
    run_ranks(_recognize_in_ranks, world, 0)
    stores = RecognitionStores.open(world / "query", world / "train", world / "noise")
    flat = Flat(device="cpu")
    found = Recognizer(k=3)(
        stores.query.vectors,
        flat.build(stores.train.vectors),
        stores.codes,
        distractors=flat.build(stores.distractors.vectors),
    )
    for rank in range(2):
        np.testing.assert_allclose(np.load(world / f"scores{rank}.npy"), found.scores, atol=1e-6)

"""score.py and what it calls: the organisers' answers, and one line for each mistake."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from landmark.artifact.rankings import Rankings
from landmark.metric.revisited import evaluate
from landmark.mistake import UserMistake
from landmark.report.challenge import score_recognition, score_retrieval
from landmark.report.revisited import read_ground_truth, score_revisited

ROOT = Path(__file__).resolve().parents[1]


def score(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "score.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("task", ["retrieval", "recognition"])
def test_the_organisers_answers(shared, tmp_path, task):
    folder = shared / "reference" / "gldv2_metrics"
    files = [folder / f"{task}_{kind}.csv" for kind in ("solution", "submission")]
    result = score(f"task={task}", f"solution={files[0]}", f"submission={files[1]}", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    expected = json.loads((folder / "expected.json").read_text())
    names = {
        "retrieval": {name for name in expected["public"] if name.startswith(("mean", "median"))},
        "recognition": {name for name in expected["public"] if name.startswith(("gap", "top"))},
    }[task]
    assert len(names) == {"retrieval": 5, "recognition": 3}[task]
    for part in ("public", "private"):
        assert set(found[part]) == names
        for name in names:
            np.testing.assert_allclose(found[part][name], expected[part][name], rtol=0, atol=1e-9)
    assert list(tmp_path.iterdir()) == []


def test_retrieval_counted_by_hand(tmp_path):
    solution = write(
        tmp_path / "solution.csv",
        "id,images,Usage",
        "q1,a b,Public",
        "q2,c,Public",
        "q3,d,Private",
        "q4,,Ignored",
        "q5,,Public",
    )
    submission = write(
        tmp_path / "submission.csv", "id,images", "q1,x a a b", "q4,a b", "q3,d", "q5,a"
    )
    found = score_retrieval(solution, submission)
    # q1 alone finds: a at 2, b at 4; q2 is not predicted; q5 has no answer.
    precision = (1 / 2 + 2 / 4) / 2
    assert found["public"] == {
        "mean_average_precision_at_100": pytest.approx(precision / 3),
        "mean_average_precision_at_10": pytest.approx(precision / 3),
        "mean_precision_at_1_5_10_100": pytest.approx([0, 2 / 15, 2 / 30, 2 / 300]),
        "mean_position": pytest.approx((2 + 101 + 101) / 3),
        "median_position": 101,
    }
    assert found["private"]["mean_average_precision_at_100"] == 1
    assert found["private"]["median_position"] == 1


def test_recognition_counted_by_hand(tmp_path):
    solution = write(
        tmp_path / "solution.csv",
        "id,landmarks,Usage",
        "a,1 2,Public",
        "b,3,Public",
        "c,,Public",
        "d,4,Public",
        "e,5,Private",
        "f,6,Ignored",
    )
    submission = write(
        tmp_path / "submission.csv", "id,landmarks", "c,9 0.7", "b,3 0.5", "a,2 0.5", "d,", "f,6 9"
    )
    found = score_recognition(solution, submission)
    # c comes first and is wrong; a and b are equal, a has the lower id; both are right.
    assert found["public"] == {
        "gap": pytest.approx((1 / 2 + 2 / 3) / 3),
        "gap_ignoring_images_without_landmark": pytest.approx(2 / 3),
        "top1_accuracy": pytest.approx(2 / 3),
    }
    assert found["private"] == {
        "gap": 0,
        "gap_ignoring_images_without_landmark": 0,
        "top1_accuracy": 0,
    }
    # Of the equal ones the lower id counts first: with b wrong, a's precision is that at 2.
    write(submission, "id,landmarks", "c,9 0.7", "b,8 0.5", "a,2 0.5")
    assert score_recognition(solution, submission)["public"]["gap"] == pytest.approx(1 / 2 / 3)


def revisited_case(folder: Path, named: bool = True) -> tuple[Path, np.ndarray, list[dict]]:
    """A ground truth of 12 photos and 3 queries on disk, and full rankings of them."""
    random = np.random.default_rng(3)
    truth = []
    for hard in (3, 2, 0):
        lists = np.split(random.permutation(12)[: 5 + hard], [3, 3 + hard])
        truth.append(
            dict(zip(("easy", "hard", "junk"), map(np.ndarray.tolist, lists), strict=True))
        )
    content = {"gnd": truth}
    if named:
        content |= {"imlist": [f"g{row}" for row in range(12)], "qimlist": ["q0", "q1", "q2"]}
    path = folder / "gnd.pkl"
    path.write_bytes(pickle.dumps(content))
    return path, np.array([random.permutation(12) for _ in truth]), truth


def write_rankings(path: Path, rows: np.ndarray, queries: list[str], gallery: list[str]) -> Path:
    scores = np.zeros(rows.shape, np.float32)
    Rankings(rows, scores, np.array(queries), np.array(gallery)).write(path)
    return path


@pytest.mark.parametrize("named", [True, False])
def test_the_protocols_of_a_ranking(tmp_path, named):
    pickled, rows, truth = revisited_case(tmp_path, named)
    names = [f"g{row}" for row in range(12)]
    ranked = write_rankings(tmp_path / "ranked", rows, ["q0", "q1", "q2"], names)
    result = score("task=revisited", f"ground_truth={pickled}", f"rankings={ranked}", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    for protocol, numbers in evaluate(rows, truth).items():
        assert found[protocol]["map"] == pytest.approx(numbers["map"], abs=1e-12)
        precisions = [None if np.isnan(one) else one for one in numbers["average_precision"]]
        assert found[protocol]["average_precision"] == pytest.approx(precisions, abs=1e-12)
        for k in (1, 5, 10):
            assert found[protocol][f"mp_at_{k}"] == pytest.approx(numbers[f"mp_at_{k}"])
    assert found["hard"]["average_precision"][2] is None


def test_queries_and_photos_are_found_by_name(tmp_path):
    """Another order of queries and gallery, and distractors, leave the truth's rows found."""
    pickled, rows, truth = revisited_case(tmp_path)
    random = np.random.default_rng(0)
    gallery = random.permutation([*(f"g{row}" for row in range(12)), "x1", "x2", "x3"]).tolist()
    queries = [2, 0, 1]
    # After the second result stands a distractor: it takes a place and answers nothing.
    numbers = {name: place for place, name in enumerate(gallery)}
    moved = [
        [numbers[f"g{row}"] for row in rows[query][:2]]
        + [numbers["x2"]]
        + [numbers[f"g{row}"] for row in rows[query][2:]]
        + [-1]
        for query in queries
    ]
    ranked = write_rankings(tmp_path / "r", np.array(moved), ["q2", "q0", "q1"], gallery)
    expected = evaluate(np.insert(rows, 2, 99, axis=1), truth)
    for protocol, found in score_revisited(pickled, ranked).items():
        assert found["map"] == pytest.approx(expected[protocol]["map"], abs=1e-12)
        wanted = np.nan_to_num(expected[protocol]["average_precision"]).tolist()
        assert [one or 0 for one in found["average_precision"]] == pytest.approx(wanted, abs=1e-12)


def test_the_published_lists_put_first_are_found_wholly(shared, tmp_path):
    pickled = shared / "reference" / "revisitop_gnd" / "gnd_roxford5k.pkl"
    truth = read_ground_truth(pickled)
    best = [[*one["junk"], *one["easy"], *one["hard"]] for one in truth.queries]
    rows = np.full((len(best), max(map(len, best))), -1)
    for query, ranking in enumerate(best):
        rows[query, : len(ranking)] = ranking
    ranked = write_rankings(tmp_path / "r", rows, truth.query_ids, truth.gallery_ids)
    found = score_revisited(pickled, ranked)
    assert [found[one]["map"] for one in ("easy", "medium", "hard")] == pytest.approx([1, 1, 1])


def test_rankings_of_other_photos_are_mistakes(tmp_path):
    pickled, rows, _ = revisited_case(tmp_path)
    names, queries = [f"g{row}" for row in range(12)], ["q0", "q1", "q2"]
    for name, arguments, words in (
        ("few", (rows[:2], queries[:2], names), "holds 2 queries, .* has 3"),
        ("other", (rows, ["q0", "q1", "q9"], names), "lacks query q2 of the ground truth"),
        ("part", (rows, queries, [*names[:11], "x"]), r"lacks photo g11 .*\(1 in all\)"),
    ):
        ranked = write_rankings(tmp_path / name, *arguments)
        with pytest.raises(UserMistake, match=words) as caught:
            score_revisited(pickled, ranked)
        assert str(caught.value).startswith(f"{ranked}: ")
    with pytest.raises(UserMistake, match="holds no rankings"):
        score_revisited(pickled, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "it has no list gnd"),
        ({"imlist": []}, "it has no list gnd"),
        ({"gnd": [{"easy": [], "hard": [], "junk": []}, {"easy": []}]}, r"gnd\[1\] must hold easy"),
    ],
)
def test_another_pickle_is_a_mistake(tmp_path, content, words):
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserMistake, match=rf"gnd\.pkl: .*{words}"):
        read_ground_truth(tmp_path / "gnd.pkl")


@pytest.mark.parametrize(
    ("task", "solution", "submission", "words"),
    [
        ("retrieval", None, "id,images", ["solution.csv", "no such file"]),
        ("retrieval", "id,images\nq,a", "id,image\nq,a", ["submission.csv", "no column images"]),
        ("retrieval", "id,images\nq,a", "id,images\nr,a", ["submission.csv", "r (1 in all)"]),
        ("recognition", "id,landmarks\nq,1", "id,landmarks\nq,1 x", ["submission.csv", "'x'"]),
        ("recognition", "id,landmarks\nq,1", "id,landmarks\nq,1", ["row 1", "landmark_id score"]),
        ("recognition", "id,landmarks\nq,1", "id,landmarks\nr,1 2", ["r (1 in all)"]),
        ("detection", "id,landmarks\nq,1", "id,landmarks\n", ["task=detection", "revisited"]),
        ("revisited", "id\n", "id\n", ["ground_truth", "needs a file"]),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, task, solution, submission, words):
    for name, text in (("solution.csv", solution), ("submission.csv", submission)):
        if text is not None:
            write(tmp_path / name, text)
    before = sorted(tmp_path.iterdir())
    arguments = [f"task={task}", "solution=solution.csv", "submission=submission.csv"]
    result = score(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_pickle_that_is_refused_is_one_line(tmp_path):
    (tmp_path / "gnd.pkl").write_bytes(b"cos\nsystem\n(S'touch trace'\ntR.")
    result = score("task=revisited", "ground_truth=gnd.pkl", "rankings=r", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert "gnd.pkl: refused" in line
    assert "os.system" in line
    assert [one.name for one in tmp_path.iterdir()] == ["gnd.pkl"]

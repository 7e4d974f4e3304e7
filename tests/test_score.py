"""score.py: the organisers' scores, and one line for each user error."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from landmark.error import UserError
from landmark.score.gldv2 import score_recognition, score_retrieval

ROOT = Path(__file__).resolve().parents[1]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("task", ["retrieval", "recognition"])
def test_the_organisers_scores(shared, task):
    folder = shared / "reference" / "gldv2_metrics"
    files = [folder / f"{task}_{kind}.csv" for kind in ("solution", "submission")]
    found = {"retrieval": score_retrieval, "recognition": score_recognition}[task](*files)
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
    # Only q1 has hits: a at 2, b at 4; q2 has no prediction; q5 has no relevant photo.
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
    # c comes first and is wrong; a and b tie, a has the lower id; both are correct.
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
    # In a tie the lower id comes first: with b wrong, the precision of a is that at 2.
    write(submission, "id,landmarks", "c,9 0.7", "b,8 0.5", "a,2 0.5")
    assert score_recognition(solution, submission)["public"]["gap"] == pytest.approx(1 / 2 / 3)


@pytest.mark.parametrize(
    ("function", "solution", "submission", "words"),
    [
        (score_retrieval, None, "id,images", r"solution\.csv does not exist"),
        (
            score_retrieval,
            "id,images\nq,a",
            "id,images\nr,a\ns,a",
            r"submission\.csv: r \(2 in all",
        ),
        (
            score_retrieval,
            "id,images,Usage\nq,a,x",
            "id,images",
            r"solution\.csv: unknown Usage 'x' in row 1",
        ),
        (
            score_recognition,
            "id,images\nq,1",
            "id,landmarks",
            r"solution\.csv has no column landm",
        ),
        (
            score_recognition,
            "id,landmarks\nq,1",
            "id,landmarks\nr,1 2",
            r"submission\.csv: r \(1 in",
        ),
    ],
)
def test_inconsistent_files_are_refused(tmp_path, function, solution, submission, words):
    for name, text in (("solution.csv", solution), ("submission.csv", submission)):
        if text is not None:
            write(tmp_path / name, text)
    with pytest.raises(UserError, match=words):
        function(tmp_path / "solution.csv", tmp_path / "submission.csv")


def score(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "score.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_the_command_prints_the_same_as_json(tmp_path):
    solution = write(tmp_path / "solution.csv", "id,landmarks,Usage", "a,1 2,Public", "b,3,Private")
    submission = write(tmp_path / "submission.csv", "id,landmarks", "a,2 0.5", "b,1 0.9")
    files = sorted(tmp_path.iterdir())
    result = score(
        "task=recognition", "solution=solution.csv", "submission=submission.csv", cwd=tmp_path
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == score_recognition(solution, submission)
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("task", "prediction", "words"),
    [
        ("detection", "id,landmarks", ["task=detection", "revisited"]),
        ("revisited", "id,landmarks", ["ground_truth", "needs ground_truth"]),
        ("recognition", None, ["submission.csv does not exist"]),
        ("recognition", "id,images", ["submission.csv", "no column landmarks"]),
        ("recognition", "id,landmarks\nq,1 x", ["submission.csv", "row 1", "'x'"]),
    ],
)
def test_a_user_error_is_one_line_and_status_2(tmp_path, task, prediction, words):
    write(tmp_path / "solution.csv", "id,landmarks", "q,1")
    if prediction is not None:
        write(tmp_path / "submission.csv", prediction)
    before = sorted(tmp_path.iterdir())
    arguments = [f"task={task}", "solution=solution.csv", "submission=submission.csv"]
    result = score(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line
    assert sorted(tmp_path.iterdir()) == before

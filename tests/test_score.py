"""score.py: the organisers' scores, and one line for each user error."""

import json
import subprocess
import sys
import tracemalloc
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


RETRIEVAL = "id,images,Usage\nq1,a b,Public\nq2,c,Private\nq3,d,Ignored\n"
RECOGNITION = "id,landmarks,Usage\nq1,12 13,Public\nq2,7,Public\nq3,9,Ignored\n"


def scored(folder: Path, solution: str, submission: str | bytes, **options) -> dict:
    (folder / "solution.csv").write_text(solution)
    content = submission if isinstance(submission, bytes) else submission.encode()
    (folder / "submission.csv").write_bytes(content)
    is_recognition = solution.partition("\n")[0].lower().startswith("id,landmarks")
    function = score_recognition if is_recognition else score_retrieval
    return function(folder / "solution.csv", folder / "submission.csv", **options)


@pytest.mark.parametrize(
    ("submission", "words"),
    [
        ("id,images\nq1,a b\nq2\nq3,d\n", r"line 3, 'q2', is cut off before the first ','"),
        ("id,images\nq1,a b\nq2,c\nq3", r"line 4, 'q3', is cut off"),
        ("id,images\rq1\rq2,c\r", r"line 2, 'q1', is cut off"),
        ("id,images\nq1,\"['a', 'b']\"\nq2,c\n", r"images \"\['a', 'b'\]\" in row 1 is not a list"),
        ("id,images\nq1,x\nq2,[c d]\n", r"images '\[c d\]' in row 2 is not a list of ids"),
        ('id,images\nq1,"a, b"\nq2,c\n', "images 'a, b' in row 1"),
        ("id,images\nq1,a;b\nq2,c\n", "images 'a;b' in row 1"),
        ("id,images\nq1,a|b\nq2,c\n", r"images 'a\|b' in row 1"),
        ("id,images\nq1,'a' 'b'\nq2,c\n", "in row 1 is not a list of ids separated by blanks"),
        (
            "id,images\nq1,a.jpg b.jpg\nq2,c.jpg\n",
            r"none of its image ids, such as 'a\.jpg', is in",
        ),
        ("id,images\nq1,index/a\nq2,index/c\n", "none of its image ids"),
        ("id,images\nq3,d\n", "has no prediction for a query that counts"),
        ("id,images\nq1,\nq2,\n", "has no prediction for a query that counts"),
        ("id,images\n", "has no prediction for a query that counts"),
        ("id,images\nq1,a\nq1 ,b\n", "duplicate id 'q1'"),
        ("id,images,Images\nq1,a,b\n", "'images' and 'Images' are both images"),
        (b"id,images\nq1,a\x00 b\nq2,c\n", "line 2 has a NUL byte"),
        ("id,images\nq1,a b\nq2,c\n".encode("utf-16-le"), "line 1 has a NUL byte"),
        ("id,images\nq1," + "a " * 2**19 + "b\nq2,c\n", "row at line 2 is longer than 1,048,576"),
        ('id,images\nq1,"' + "a\n" * 2**19 + '"\nq2,c\n', "is longer than 1,048,576 bytes"),
    ],
)
def test_a_retrieval_submission_that_cannot_match_is_refused(tmp_path, submission, words):
    with pytest.raises(UserError, match=rf"submission\.csv.*{words}"):
        scored(tmp_path, RETRIEVAL, submission)


@pytest.mark.parametrize(
    ("submission", "words"),
    [
        ("12.0 0.9", "landmark '12.0' in row 1 is a decimal number, not an id"),
        ("1.2e1 0.9", "landmark '1.2e1' in row 1 is a decimal number"),
        ("0.9 12", "landmark '0.9' in row 1 is a decimal number"),
        ("1 12", "none of its landmark ids, such as '1', is in"),
        ("tower 0.9", "landmark 'tower' of q1 is not a whole number, as those of"),
        ("nan 0.9", "landmark 'nan' of q1 is not a whole number"),
        ('"12, 0.9"', "landmark '12,' in row 1 is not an id"),
        ('"12,13 0.9"', "landmark '12,13' in row 1 is not an id"),
        ("12: 0.9", "landmark '12:' in row 1"),
        ('"[12, 0.9]"', r"landmark '\[12,' in row 1"),
        ("12 0.9 13 0.5", "row 1: '12 0.9 13 0.5' is not valid"),
        ("12 inf", "score 'inf' is not a number, or not finite"),
        ("12 -1e999", "score '-1e999' is not a number, or not finite"),
        ("12 90%", "score '90%' is not a number"),
        ("", "has no prediction for a query that counts"),
    ],
)
def test_a_recognition_submission_that_cannot_match_is_refused(tmp_path, submission, words):
    with pytest.raises(UserError, match=rf"submission\.csv.*{words}"):
        scored(tmp_path, RECOGNITION, f"id,landmarks\nq1,{submission}\nq2,\n")


@pytest.mark.parametrize(
    ("solution", "words"),
    [
        (
            RETRIEVAL.replace("Public", "Ignored").replace("Private", "Ignored"),
            "no query counts, so",
        ),
        (RETRIEVAL.replace("a b", "").replace(",c,", ",,"), "no query that counts has an answer"),
        (RETRIEVAL.replace("a b", '"a,b"'), "images 'a,b' in row 1 is not a list"),
        (RETRIEVAL.replace("id,images", "id,images,usage"), "'usage' and 'Usage' are both Usage"),
        (RECOGNITION.replace("12 13", "12.0"), "landmark '12.0' in row 1 is a decimal number"),
        (RECOGNITION.replace("12 13", "nan"), "landmark 'nan' in row 1 is not an id"),
        (RECOGNITION.replace("12 13", '"12,13"'), "landmark '12,13' in row 1 is not an id"),
    ],
)
def test_a_solution_that_nothing_can_match_is_refused(tmp_path, solution, words):
    column = solution.partition("\n")[0].split(",")[1]
    answers = "q1,a b\nq2,c\n" if column == "images" else "q1,12 0.9\nq2,7 0.8\n"
    with pytest.raises(UserError, match=rf"solution\.csv.*{words}"):
        scored(tmp_path, solution, f"id,{column}\n{answers}")


@pytest.mark.parametrize(
    "submission",
    [
        "id,images\r\nq1,a b\r\nq2,c\r\nq3,d\r\n",
        "id,images\rq1,a b\rq2,c\rq3,d\r",
        "\ufeffid,images\nq1,a b\nq2,c\nq3,d\n",
        "ID, Images \nq1 ,a  b \n q2, c\nq3,d\n\n",
        'id,images,note\nq1,"a\tb",x\nq2,c,"1,\n2"\n',
    ],
)
def test_harmless_differences_of_a_file_are_accepted(tmp_path, capsys, submission):
    expected = scored(tmp_path, RETRIEVAL, "id,images\nq1,a b\nq2,c\nq3,d\n")
    assert expected["public"]["mean_average_precision_at_100"] == 1
    assert scored(tmp_path, RETRIEVAL, submission) == expected
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["usage", " Usage ", "USAGE"])
def test_a_usage_column_in_other_case_is_used_and_said(tmp_path, capsys, name):
    submission = "id,landmarks\nq1,1 0.9\nq2,7 0.8\n"
    solution = RECOGNITION.replace("q1,12 13,Public", "q1,12 13,Ignored")
    expected = scored(tmp_path, solution, submission)
    assert expected["public"]["gap"] == 1  # q1 is ignored
    capsys.readouterr()
    assert scored(tmp_path, solution.replace("Usage", name), submission) == expected
    errors = capsys.readouterr().err
    assert errors == f"{tmp_path / 'solution.csv'}: the column {name!r} is used as Usage.\n"


def test_what_does_not_count_is_said(tmp_path, capsys):
    ids = " ".join(["x"] * 99 + ["a", "b"])
    found = scored(tmp_path, "id,images\nq1,a b\nq2,c\n", f"id,images\nq1,{ids}\n")
    assert found["public"]["mean_average_precision_at_100"] == pytest.approx((1 / 100 / 2 + 0) / 2)
    usage, missing, cut = capsys.readouterr().err.splitlines()
    assert usage.endswith(
        "has no column Usage (columns: id, images): every query counts as public."
    )
    assert missing.endswith("submission.csv has no row for 1 of 2 queries: they score 0.")
    assert cut.endswith("1 of 2 queries list more than 100 images; the first 100 count.")


def test_the_photo_of_a_query_is_not_its_own_answer(tmp_path, capsys):
    solution = "id,images,Usage\nq1,q1 a,Public\nq2,b,Public\nq3,q3,Public\n"
    submission = "id,images\nq1,q1 x a\nq2,q2 b\nq3,q3\n"
    found = scored(tmp_path, solution, submission)
    # q1: a at 2; q2: b at 1; q3 has no other relevant photo.
    assert found["public"]["mean_average_precision_at_100"] == pytest.approx((1 / 2 + 1) / 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("3 of 3 queries are among their own images")
    assert "1 without another relevant image are excluded. Pass allow_self=true" in line
    kept = scored(tmp_path, solution, submission, allow_self=True)
    expected = ((1 + 2 / 3) / 2 + 1 / 2 + 1) / 3
    assert kept["public"]["mean_average_precision_at_100"] == pytest.approx(expected)
    assert capsys.readouterr().err == ""


def test_memory_does_not_grow_with_the_longest_row(tmp_path):
    (tmp_path / "solution.csv").write_text(
        "id,images,Usage\n" + "".join(f"q{i},a,Public\n" for i in range(2000))
    )
    rows = "".join(f"q{i},x a\n" for i in range(1, 2000))
    (tmp_path / "submission.csv").write_text("id,images\nq0," + "y " * 400_000 + "\n" + rows)
    tracemalloc.start()
    score_retrieval(tmp_path / "solution.csv", tmp_path / "submission.csv")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 2**20  # 2,000 rows of 400,000 results would be 6 GiB


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

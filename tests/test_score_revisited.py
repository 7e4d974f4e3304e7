"""Rankings of ROxford and RParis scored with a pickled ground truth."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from landmark.artifact.rankings import Rankings
from landmark.artifact.revisited_file import RevisitedFile
from landmark.error import UserError
from landmark.metric.revisited import evaluate
from landmark.score.revisited import score_revisited

ROOT = Path(__file__).resolve().parents[1]
EMPTY = {"easy": [], "hard": [], "junk": []}


def revisited_case(folder: Path, named: bool = True) -> tuple[Path, np.ndarray, list[dict]]:
    """Write a ground truth of 12 photos and 3 queries, and complete rankings."""
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
    path.mkdir()
    Rankings(rows, scores, np.array(queries), np.array(gallery)).write_into(path)
    return path


@pytest.mark.parametrize("named", [True, False])
def test_the_protocols_of_a_ranking(tmp_path, named):
    pickled, rows, truth = revisited_case(tmp_path, named)
    names = [f"g{row}" for row in range(12)]
    ranked = write_rankings(tmp_path / "ranked", rows, ["q0", "q1", "q2"], names)
    found = score_revisited(pickled, ranked)
    for protocol, numbers in evaluate(rows, truth).items():
        assert found[protocol]["map"] == pytest.approx(numbers["map"], abs=1e-12)
        precisions = [None if np.isnan(one) else one for one in numbers["average_precision"]]
        assert found[protocol]["average_precision"] == pytest.approx(precisions, abs=1e-12)
        for k in (1, 5, 10):
            assert found[protocol][f"mp_at_{k}"] == pytest.approx(numbers[f"mp_at_{k}"])
    assert found["hard"]["average_precision"][2] is None


def test_queries_and_photos_are_matched_by_name(tmp_path):
    """Reordered queries and gallery and added distractors do not change the relevant rows."""
    pickled, rows, truth = revisited_case(tmp_path)
    random = np.random.default_rng(0)
    gallery = random.permutation([*(f"g{row}" for row in range(12)), "x1", "x2", "x3"]).tolist()
    queries = [2, 0, 1]
    # The third result is a distractor, which counts as wrong.
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


def test_rankings_with_the_published_lists_first_are_perfect(shared, tmp_path):
    pickled = shared / "reference" / "revisitop_gnd" / "gnd_roxford5k.pkl"
    truth = RevisitedFile.open(pickled)
    best = [[*one["junk"], *one["easy"], *one["hard"]] for one in truth.queries]
    rows = np.full((len(best), max(map(len, best))), -1)
    for query, ranking in enumerate(best):
        rows[query, : len(ranking)] = ranking
    ranked = write_rankings(tmp_path / "r", rows, truth.query_ids, truth.gallery_ids)
    found = score_revisited(pickled, ranked)
    assert [found[one]["map"] for one in ("easy", "medium", "hard")] == pytest.approx([1, 1, 1])


def test_rankings_of_other_photos_are_refused(tmp_path):
    pickled, rows, _ = revisited_case(tmp_path)
    names, queries = [f"g{row}" for row in range(12)], ["q0", "q1", "q2"]
    for name, arguments, words in (
        ("few", (rows[:2], queries[:2], names), "contains 2 queries, .* 3"),
        ("other", (rows, ["q0", "q1", "q9"], names), "query q2 of the ground truth is missing"),
        ("twice", (rows, ["q0", "q1", "q2"], [*names, "g3"]), "photo g3 .* more than once"),
        ("part", (rows, queries, [*names[:11], "x"]), r"photo g11 .* is missing \(1 in all\)"),
    ):
        ranked = write_rankings(tmp_path / name, *arguments)
        with pytest.raises(UserError, match=words) as caught:
            score_revisited(pickled, ranked)
        assert str(caught.value).startswith(str(ranked))
    with pytest.raises(UserError, match="is not a folder of rankings"):
        score_revisited(pickled, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "lists gnd, and gnd is missing"),
        ({"imlist": []}, "lists gnd, and gnd is missing"),
        ({"gnd": {"easy": []}}, "gnd is not a list"),
        ({"gnd": [{**EMPTY}, {"easy": []}]}, r"gnd\[1\] must contain easy, hard, junk"),
        ({"gnd": [EMPTY], "qimlist": ["a", "b"]}, "gnd has 1 entries, qimlist 2 names"),
        ({"gnd": [EMPTY], "imlist": ["a", "b", "a"]}, "duplicate name 'a' in imlist"),
        ({"gnd": [EMPTY], "imlist": "abc"}, "imlist is not a list"),
    ],
)
def test_an_unrelated_pickle_is_refused(tmp_path, content, words):
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=rf"gnd\.pkl.*{words}"):
        RevisitedFile.open(tmp_path / "gnd.pkl")


NAMES = [f"g{row}" for row in range(12)]
LISTS = {"easy": [1], "hard": [0], "junk": [2]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"easy": [-1]}, r"gnd\[0\]: easy contains -1, which is not a row"),
        ({"hard": [12]}, r"gnd\[0\]: hard contains 12, and the gallery has 12 photos, from 0"),
        ({"junk": np.array([3, 700])}, r"gnd\[0\]: junk contains 700, and the gallery has 12"),
        ({"easy": ["g1"]}, "easy contains 'g1', which is not a row"),
        ({"easy": ["1"]}, "easy contains '1', which is not a row"),
        ({"easy": "12"}, "easy is '12', not a list of rows"),
        ({"easy": None}, "easy is None, not a list of rows"),
        ({"easy": 3}, "easy is 3, not a list of rows"),
        ({"easy": [1.5]}, "easy contains 1.5, which is not a row"),
        ({"easy": [float("nan")]}, "easy contains nan, which is not a row"),
        ({"easy": [True, False]}, "easy contains True, which is not a row"),
        ({"easy": [[1, 2]]}, r"easy contains \[1, 2\], which is not a row"),
        ({"easy": {"1": 1}}, "easy is {'1': 1}, not a list of rows"),
        ({"easy": [2**70]}, "easy contains 1180591620717411303424, and the gallery has 12"),
    ],
)
@pytest.mark.parametrize("with_photos", [False, True])
def test_rows_that_are_no_photo_are_refused(tmp_path, changes, words, with_photos):
    content = {"gnd": [LISTS | changes | {"bbx": [0, 0, 1, 1]}], "imlist": NAMES, "qimlist": ["q"]}
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=rf"gnd\.pkl: .*{words}"):
        RevisitedFile.open(tmp_path / "gnd.pkl", with_photos)


@pytest.mark.parametrize(
    "rows", [[1.0, 3.0], np.array([1, 3], np.uint8), (1, 3), {1, 3}, np.array([1.0, 3.0])]
)
def test_whole_numbers_of_any_type_are_rows(tmp_path, rows):
    content = {"gnd": [{"easy": rows, "hard": np.array([]), "junk": ()}], "imlist": NAMES}
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
    queries = RevisitedFile.open(tmp_path / "gnd.pkl").queries
    assert queries == [{"easy": [1, 3], "hard": [], "junk": []}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imlist": 5}, "imlist is not a list"),
        ({"imlist": []}, "the gallery has 0 photos"),
        ({"imlist": [*NAMES[:11], "g0"]}, "duplicate name 'g0' in imlist"),
        ({"imlist": [*NAMES[:11], 11]}, r"imlist\[11\] is 11, which is not a name"),
        ({"imlist": [*NAMES[:11], None]}, r"imlist\[11\] is None, which is not a name"),
        ({"imlist": [*NAMES[:11], ["g11"]]}, r"imlist\[11\] is \['g11'\], which is not a name"),
        ({"qimlist": []}, "gnd has 1 entries, qimlist 0 names"),
        ({"qimlist": ["q", "p"]}, "gnd has 1 entries, qimlist 2 names"),
        ({"qimlist": [0]}, r"qimlist\[0\] is 0, which is not a name"),
    ],
)
def test_lists_of_names_must_fit_the_rows(tmp_path, changes, words):
    content = {"gnd": [LISTS], "imlist": NAMES, "qimlist": ["q"]}
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content | changes))
    with pytest.raises(UserError, match=rf"gnd\.pkl.*{words}"):
        RevisitedFile.open(tmp_path / "gnd.pkl")


def test_a_photo_in_two_lists_is_said(tmp_path, capsys):
    content = {"gnd": [LISTS, LISTS | {"junk": [5, 0]}, LISTS | {"hard": [1]}], "imlist": NAMES}
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
    RevisitedFile.open(tmp_path / "gnd.pkl")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "gnd.pkl: gnd[1]: row 0 is hard and junk (2 in all); such a photo is a positive, not junk."
    )


def truth_file(folder: Path, *queries: dict, named: bool = True) -> Path:
    names = {"imlist": NAMES, "qimlist": [f"q{row}" for row in range(len(queries))]}
    path = folder / "gnd.pkl"
    path.write_bytes(pickle.dumps({"gnd": list(queries)} | (names if named else {})))
    return path


def test_a_ranking_that_ends_before_a_positive_is_refused(tmp_path):
    rows = np.tile(np.arange(5), (2, 1))
    ranked = write_rankings(tmp_path / "r", rows, ["q0", "q1"], NAMES)
    cut = truth_file(tmp_path, LISTS, {"easy": [4, 5], "hard": [9], "junk": []})
    words = r"ranks 5 of 12 photos, and 2 positives of 1 queries .* Rank again with k=12\.$"
    with pytest.raises(UserError, match=words):
        score_revisited(cut, ranked)
    # With all positives among the results, the figures equal those of the complete ranking.
    exact = truth_file(tmp_path, LISTS, {"easy": [4, 2], "hard": [], "junk": [9]})
    complete = write_rankings(tmp_path / "c", np.tile(np.arange(12), (2, 1)), ["q0", "q1"], NAMES)
    assert score_revisited(exact, ranked) == score_revisited(exact, complete)


def test_positives_that_a_search_of_the_complete_gallery_misses_are_said(tmp_path, capsys):
    rows = np.full((1, 12), -1)
    rows[0, :2] = [0, 3]
    ranked = write_rankings(tmp_path / "r", rows, ["q0"], NAMES)
    found = score_revisited(truth_file(tmp_path, LISTS), ranked)
    assert found["medium"]["map"] == pytest.approx(1 / 2)  # the hard one at 0, the easy one nowhere
    assert "the search did not return 1 positives of 1 queries" in capsys.readouterr().err


def test_a_protocol_without_positives_is_said(tmp_path, capsys):
    ranked = write_rankings(tmp_path / "r", np.arange(12)[None], ["q0"], NAMES)
    score_revisited(truth_file(tmp_path, LISTS | {"hard": []}), ranked)
    assert "no query has a positive under the protocol hard: map 0." in capsys.readouterr().err
    with pytest.raises(UserError, match="no query of the ground truth has an easy or a hard photo"):
        score_revisited(truth_file(tmp_path, {"easy": [], "hard": [], "junk": [1]}), ranked)


def test_rows_beyond_the_gallery_are_refused_without_names(tmp_path):
    ranked = write_rankings(tmp_path / "r", np.arange(12)[None], ["q0"], NAMES)
    unnamed = truth_file(tmp_path, LISTS | {"easy": [12]}, named=False)
    with pytest.raises(UserError, match=r"easy contains 12, and the gallery has 12 photos"):
        score_revisited(unnamed, ranked)


@pytest.mark.parametrize("named", [True, False])
def test_the_photo_of_a_query_is_not_its_own_answer(tmp_path, capsys, named):
    queries = ["q0", "g0"]
    content = {"gnd": [LISTS, LISTS]} | ({"imlist": NAMES, "qimlist": queries} if named else {})
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
    rows = np.tile(np.arange(12), (2, 1))
    ranked = write_rankings(tmp_path / "r", rows, queries, NAMES)
    found = score_revisited(tmp_path / "gnd.pkl", ranked)
    assert "1 of 2 queries are in the gallery under the same id" in capsys.readouterr().err
    without = [LISTS, LISTS | {"hard": []}]
    expected = evaluate(np.array([np.arange(12), [*range(1, 12), -1]]), without)
    kept = score_revisited(tmp_path / "gnd.pkl", ranked, allow_self=True)
    assert capsys.readouterr().err == ""
    for protocol, metrics in expected.items():
        assert found[protocol]["map"] == pytest.approx(metrics["map"])
        with_own = evaluate(rows, [LISTS, LISTS])[protocol]["map"]
        assert kept[protocol]["map"] == pytest.approx(with_own)
    assert found["hard"]["average_precision"][1] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imlist": None}, "lists gnd, imlist, qimlist, and imlist is missing"),
        ({"qimlist": None}, "qimlist is missing"),
        ({"qimlist": []}, "gnd has 1 entries, qimlist 0 names"),
        ({"gnd": [EMPTY]}, r"gnd\[0\] must contain easy, hard, junk, bbx"),
        ({"gnd": [{**EMPTY, "bbx": [1, 2, 3]}]}, "each bbx in gnd must be four numbers"),
        ({"gnd": [{**EMPTY, "bbx": "here"}]}, "each bbx in gnd must be four numbers"),
    ],
)
def test_ground_truth_for_photos_requires_more_keys(tmp_path, changes, words):
    content = {"gnd": [{**EMPTY, "bbx": [1, 2, 3, 4]}], "imlist": ["g"], "qimlist": ["q"]}
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps(content))
    opened = RevisitedFile.open(path, with_photos=True)
    assert opened.boxes.tolist() == [[1, 2, 3, 4]]
    assert (opened.query_ids, opened.gallery_ids, opened.queries) == (["q"], ["g"], [EMPTY])
    path.write_bytes(pickle.dumps(content | changes))
    with pytest.raises(UserError, match=rf"gnd\.pkl.*{words}"):
        RevisitedFile.open(path, with_photos=True)


def test_the_command_scores_rankings(tmp_path):
    pickled, rows, _ = revisited_case(tmp_path)
    names = [f"g{row}" for row in range(12)]
    ranked = write_rankings(tmp_path / "ranked", rows, ["q0", "q1", "q2"], names)
    arguments = ["task=revisited", f"ground_truth={pickled}", f"rankings={ranked}"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "score.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == score_revisited(pickled, ranked)

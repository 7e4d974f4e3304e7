"""Submissions and solutions in the formats of the challenges."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.rankings import Rankings
from landmark.artifact.submission import (
    check_retrieval,
    read_recognition_solution,
    read_recognition_submission,
    read_retrieval,
    read_usage,
    write_retrieval,
)
from landmark.error import UserError

GALLERY = [f"{row:016x}" for row in range(150)]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 130), min_size=1, max_size=4),
    k=st.integers(1, 120),
    seed=st.integers(0, 99),
)
def test_a_written_submission_lists_the_first_k_of_each_query(tmp_path_factory, lengths, k, seed):
    random = np.random.default_rng(seed)
    rows = np.full((len(lengths), 130), -1, np.int32)
    for query, length in enumerate(lengths):
        rows[query, :length] = random.permutation(len(GALLERY))[:length]
    queries = [f"q{query}" for query in range(len(lengths))]
    rankings = Rankings(
        rows, np.zeros(rows.shape, np.float32), np.array(queries), np.array(GALLERY)
    )
    path = tmp_path_factory.mktemp("submission") / "submission.csv"
    write_retrieval(path, rankings, k)
    with path.open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["id", "images"]
    expected = {
        query: [GALLERY[row] for row in rows[place, : min(k, lengths[place])]]
        for place, query in enumerate(queries)
    }
    assert {query: images.split() for query, images in lines} == expected
    assert read_retrieval(path) == expected
    if max(map(len, expected.values())) <= 100:
        assert check_retrieval(path, GALLERY, queries) == len(queries)
    else:
        with pytest.raises(UserError, match="at most 100"):
            check_retrieval(path, GALLERY, queries)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_hundred_are_written_by_default(tmp_path):
    rows = np.arange(150, dtype=np.int32)[None]
    rankings = Rankings(rows, np.zeros((1, 150)), np.array(["q"]), np.array(GALLERY))
    write_retrieval(tmp_path / "s.csv", rankings)
    assert read_retrieval(tmp_path / "s.csv") == {"q": GALLERY[:100]}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["q1," + " ".join(GALLERY[:101]), "q2,"], "query q1 has 101 images. List at most 100"),
        (["q1,", f"q2,{GALLERY[3]} {GALLERY[4]} {GALLERY[3]}"], f"q2 lists image {GALLERY[3]} mo"),
        (["q1,", f"q2,{GALLERY[3]} ffff"], "query q2 lists ffff, which is not in the gallery"),
        (["q2,"], r"missing query q1 \(1 in all\)"),
        (["q1,", "q2,", "q3,", "q4,"], r"unknown query q3 \(2 in all\)"),
        (["q1,", "q2,", "q1,"], "duplicate id 'q1'"),
        (["q1,", ","], "row 2 has no id"),
        (["q1,a,b", "q2,c,d"], "more fields"),
    ],
)
def test_an_invalid_submission_is_refused(tmp_path, lines, words):
    path = tmp_path / "s.csv"
    path.write_text("\n".join(["id,images", *lines]) + "\n")
    with pytest.raises(UserError, match=words) as caught:
        check_retrieval(path, GALLERY, ["q1", "q2"])
    assert str(caught.value).startswith(str(path))


def test_queries_are_checked_only_if_passed(tmp_path):
    (tmp_path / "s.csv").write_text(f"id,images\nq9,{GALLERY[0]}\n")
    assert check_retrieval(tmp_path / "s.csv", GALLERY) == 1


@pytest.mark.parametrize(
    ("read", "column"),
    [
        (read_retrieval, "images"),
        (read_recognition_solution, "landmarks"),
        (read_recognition_submission, "landmarks"),
    ],
)
def test_a_missing_column_or_file_is_refused(tmp_path, read, column):
    path = tmp_path / "s.csv"
    path.write_text("id,others\nq,\n")
    with pytest.raises(UserError, match=rf"s\.csv has no column {column} \(columns: id, others\)"):
        read(path)
    path.write_text(f"name,{column}\nq,\n")
    with pytest.raises(UserError, match=rf"s\.csv has no column id \(columns: name, {column}"):
        read(path)
    with pytest.raises(UserError, match=r"gone\.csv does not exist"):
        read(tmp_path / "gone.csv")


def test_solutions_are_read_as_text(tmp_path):
    (tmp_path / "s.csv").write_text("id,landmarks,Usage\n007,12 034,Public\nNA,,Private\n")
    assert read_recognition_solution(tmp_path / "s.csv") == {"007": ["12", "034"], "NA": []}
    assert read_usage(tmp_path / "s.csv") == {"007": "Public", "NA": "Private"}


def test_usage_defaults_to_public(tmp_path):
    (tmp_path / "s.csv").write_text("id,images\na,x\nb,\n")
    assert read_usage(tmp_path / "s.csv") == {"a": "Public", "b": "Public"}


@pytest.mark.parametrize("usage", ["public", "Both", ""])
def test_an_unknown_usage_is_refused(tmp_path, usage):
    (tmp_path / "s.csv").write_text(f"id,images,Usage\na,x,Ignored\nb,y,{usage}\n")
    with pytest.raises(UserError, match=r"s\.csv: unknown Usage .* in row 2\. Use Public, Private"):
        read_usage(tmp_path / "s.csv")


def test_predictions_are_read_in_the_files_order(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("id,landmarks\nb,7 0.5\na,\nc,012 -1e-3 \nd, 3  2\n")
    read = read_recognition_submission(path)
    assert read.ids.tolist() == ["b", "c", "d"]
    assert read.landmarks.tolist() == ["7", "012", "3"]
    assert read.scores.tolist() == [0.5, -0.001, 2.0]


@pytest.mark.parametrize("lines", ["", "a,\nb,\n"])
def test_a_submission_may_have_no_predictions(tmp_path, lines):
    (tmp_path / "s.csv").write_text("id,landmarks\n" + lines)
    read = read_recognition_submission(tmp_path / "s.csv")
    assert len(read.ids) == len(read.landmarks) == len(read.scores) == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("7", "row 2: '7' is not valid. Write 'landmark_id score'"),
        ("7 0.5 8", "row 2: '7 0.5 8' is not valid. Write"),
        ("7 high", "row 2: score 'high' is not a number"),
        ("7 nan", "row 2: score 'nan' is not a number"),
        ("7 0,5", "more fields|cannot be read"),
    ],
)
def test_a_malformed_prediction_is_refused(tmp_path, line, words):
    path = tmp_path / "s.csv"
    path.write_text(f"id,landmarks\na,1 0.5\nb,{line}\n")
    with pytest.raises(UserError, match=words) as caught:
        read_recognition_submission(path)
    assert str(caught.value).startswith(str(path))


def rankings_of(gallery: list[str], queries: list[str]) -> Rankings:
    rows = np.tile(np.arange(len(gallery), dtype=np.int32), (len(queries), 1))
    return Rankings(rows, np.zeros(rows.shape, "f4"), np.array(queries), np.array(gallery))


@pytest.mark.parametrize(
    "name",
    [
        "Big Ben 1.jpg",
        "a\tb",
        "a\nb",
        "a\u00a0b",
        "a,b",
        "a;b",
        "a|b",
        "[a]",
        "{a",
        "'a'",
        '"a"',
        "",
    ],
)
def test_a_gallery_id_that_cannot_be_read_back_is_not_written(tmp_path, name):
    with pytest.raises(UserError, match=r"cannot be listed in submission\.csv") as caught:
        write_retrieval(tmp_path / "s.csv", rankings_of(["good", name], ["q"]))
    assert repr(name) in str(caught.value)
    assert "submission=false" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["q ", " q", "q\nr", "q\rr", " "])
def test_a_query_id_that_cannot_be_read_back_is_not_written(tmp_path, name):
    with pytest.raises(UserError, match=r"written to submission\.csv.*submission=false"):
        write_retrieval(tmp_path / "s.csv", rankings_of(["a"], ["p", name]))
    assert list(tmp_path.iterdir()) == []


ODD_IDS = [
    "d'Orsay.jpg",
    "a/b(1).jpg",
    "it's",
    'x"y',
    "50%",
    "Köln",
    "塔",
    "-1",
    "12.0",
    "NA",
    "]x[",
]


def test_odd_ids_without_separators_are_read_back(tmp_path):
    queries = ["a, b", 'say "q"', "NA", "1.0", "q;r"]
    path = tmp_path / "s.csv"
    write_retrieval(path, rankings_of(ODD_IDS, queries))
    assert read_retrieval(path) == dict.fromkeys(queries, ODD_IDS)
    assert check_retrieval(path, ODD_IDS, queries) == len(queries)


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(
        st.text(st.sampled_from("ab1 ,;|[]{}()'\"./\t\n-"), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_what_is_written_is_read_back(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("submission") / "s.csv"
    try:
        write_retrieval(path, rankings_of(ids, ["q"]))
    except UserError:
        return
    assert read_retrieval(path) == {"q": ids}

"""Metrics against the organisers' scores, naive loops over sets, and values computed by hand."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.metric import gldv2, relevance


def loop_retrieval(ranking: list[int], relevant: set[int], k: int) -> dict[str, float]:
    """The organisers' loop: a repeated result counts once and keeps its rank."""
    found, precisions, first, seen = 0, 0.0, k + 1, set()
    for place, row in enumerate(ranking[:k], start=1):
        if row >= 0 and row in relevant and row not in seen:
            found += 1
            precisions += found / place
            first = min(first, place)
        seen.add(row)
    return {
        "ap": precisions / min(len(relevant), k) if relevant else np.nan,
        "precision": found / k,
        "first": first,
    }


@st.composite
def retrievals(draw):
    """Generate rankings with repeats and padding, labels of queries and gallery, and a depth."""
    size, depth = draw(st.integers(1, 8)), draw(st.integers(0, 9))
    label = st.integers(0, 3)
    gallery = draw(st.lists(label, min_size=size, max_size=size))
    queries = draw(st.lists(label, min_size=1, max_size=4))
    row = st.integers(-1, size - 1)
    rows = [draw(st.lists(row, min_size=depth, max_size=depth)) for _ in queries]
    rows = np.array(rows, np.int32).reshape(len(queries), depth)
    return rows, np.array(queries), np.array(gallery), draw(st.integers(1, 10))


@settings(max_examples=80, deadline=None)
@given(retrieval=retrievals(), as_text=st.booleans())
def test_retrieval_metrics_equal_a_naive_loop(retrieval, as_text):
    rows, queries, gallery, k = retrieval
    lists = [np.flatnonzero(gallery == label) for label in queries]
    names = (queries.astype(str), gallery.astype(str)) if as_text else (queries, gallery)
    hits, relevant = relevance.hits_by_label(rows, *names)
    by_list, counts = relevance.hits_by_list(rows, [one[::-1] for one in lists])
    np.testing.assert_array_equal(hits, by_list)
    np.testing.assert_array_equal(relevant, counts)
    loops = [
        loop_retrieval(list(ranking), set(wanted.tolist()), k)
        for ranking, wanted in zip(rows.tolist(), lists, strict=True)
    ]
    expected = {key: np.array([one[key] for one in loops]) for key in loops[0]}
    precisions = gldv2.average_precision_at_k(hits, relevant, k)
    np.testing.assert_allclose(precisions, expected["ap"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(gldv2.precision_at_k(hits, k), expected["precision"], atol=1e-12)
    np.testing.assert_array_equal(gldv2.first_hit_position(hits, k), expected["first"])
    counted = expected["ap"][~np.isnan(expected["ap"])]
    assert gldv2.map_at_k(hits, relevant, k) == pytest.approx(counted.mean() if len(counted) else 0)


@settings(max_examples=60, deadline=None)
@given(
    results=st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=6, max_size=6),
        min_size=1,
        max_size=5,
    ),
    block_size=st.integers(1, 40),
)
def test_a_repeated_result_is_not_a_hit_for_any_block_size(results, block_size):
    rows = np.array([[row for row, _ in ranking] for ranking in results])
    hits = np.array([[hit for _, hit in ranking] for ranking in results])
    expected = [
        [hit and (row, True) not in ranking[:place] for place, (row, hit) in enumerate(ranking)]
        for ranking in results
    ]
    np.testing.assert_array_equal(relevance.first_places(rows, hits, block_size), expected)


def test_an_empty_gallery_has_no_hits():
    hits, relevant = relevance.hits_by_label(np.full((2, 3), -1), ["a", "b"], [])
    assert not hits.any()
    assert relevant.tolist() == [0, 0]
    assert gldv2.map_at_k(hits, relevant) == 0


def test_retrieval_metrics_counted_by_hand():
    rows = np.array([[4, 0, 4, 1], [2, -1, -1, -1], [0, 1, 2, 3]])
    hits, relevant = relevance.hits_by_label(rows, ["a", "b", "z"], ["a", "a", "b", "b", "a"])
    assert relevant.tolist() == [3, 2, 0]
    assert hits.tolist() == [[True, True, False, True], [True, False, False, False], [False] * 4]
    precisions = gldv2.average_precision_at_k(hits, relevant)
    np.testing.assert_allclose(precisions, [(1 + 1 + 3 / 4) / 3, 1 / 2, np.nan])
    assert gldv2.map_at_k(hits, relevant) == pytest.approx((11 / 12 + 1 / 2) / 2)
    assert gldv2.map_at_k(hits, relevant, k=1) == 1
    assert gldv2.precision_at_k(hits, 4).tolist() == [0.75, 0.25, 0]
    assert gldv2.precision_at_k(hits, 8).tolist() == [0.375, 0.125, 0]
    assert gldv2.first_hit_position(hits).tolist() == [1, 1, 101]


def loop_micro_ap(scores: list[float], correct: list[bool], positives: int) -> float:
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    found, total = 0, 0.0
    for place, row in enumerate(order, start=1):
        if correct[row]:
            found += 1
            total += found / place
    return total / positives if positives else 0.0


@settings(max_examples=60, deadline=None)
@given(
    made=st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.5000001, 2, -1]), st.booleans())),
    missing=st.integers(0, 3),
)
def test_recognition_metrics_equal_a_naive_loop(made, missing):
    scores = [float(score) for score, _ in made]
    correct = [right for _, right in made]
    positives = sum(correct) + missing
    found = gldv2.micro_ap(np.array(scores), np.array(correct, bool), positives)
    assert found == pytest.approx(loop_micro_ap(scores, correct, positives), abs=1e-12)
    top = gldv2.top_1(np.array(correct, bool), positives)
    assert top == pytest.approx(sum(correct) / positives if positives else 0)


def test_recognition_metrics_counted_by_hand():
    scores, correct = np.array([0.2, 0.9, 0.9, 0.5]), np.array([True, False, True, True])
    assert gldv2.micro_ap(scores, correct, positives=5) == pytest.approx(
        (1 / 2 + 2 / 3 + 3 / 4) / 5
    )
    assert gldv2.top_1(correct, positives=5) == pytest.approx(3 / 5)
    assert gldv2.micro_ap(scores, correct, positives=0) == gldv2.top_1(correct, 0) == 0


def read_column(path, column: str) -> dict[str, list[str]]:
    with path.open(newline="") as file:
        return {line["id"]: line[column].split() for line in csv.DictReader(file)}


@pytest.mark.parametrize("part", ["Public", "Private"])
def test_the_organisers_retrieval_scores(shared, part):
    """Computed from the files without the project's readers."""
    folder = shared / "reference" / "gldv2_metrics"
    truth = read_column(folder / "retrieval_solution.csv", "images")
    usage = read_column(folder / "retrieval_solution.csv", "Usage")
    predicted = read_column(folder / "retrieval_submission.csv", "images")
    queries = [query for query in truth if usage[query] == [part]]
    names = {image for one in (truth, predicted) for images in one.values() for image in images}
    number = {name: row for row, name in enumerate(sorted(names))}
    rows = np.full((len(queries), 200), -1)
    for place, query in enumerate(queries):
        images = predicted.get(query, [])
        rows[place, : len(images)] = [number[image] for image in images]
    lists = [[number[image] for image in truth[query]] for query in queries]
    hits, relevant = relevance.hits_by_list(rows, lists)
    positions = gldv2.first_hit_position(hits)
    expected = json.loads((folder / "expected.json").read_text())[part.lower()]
    for k in (100, 10):
        answer = expected[f"mean_average_precision_at_{k}"]
        assert gldv2.map_at_k(hits, relevant, k) == pytest.approx(answer, abs=1e-9)
    means = [gldv2.precision_at_k(hits, k).mean() for k in (1, 5, 10, 100)]
    np.testing.assert_allclose(means, expected["mean_precision_at_1_5_10_100"], atol=1e-9)
    assert positions.mean() == pytest.approx(expected["mean_position"], abs=1e-9)
    assert np.median(positions) == expected["median_position"]

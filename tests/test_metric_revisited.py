"""The easy, medium and hard protocols against the published evaluation and a loop."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.metric import revisited


def loop_revisited(ranking: list[int], positive: set[int], junk: set[int]) -> tuple[float, list]:
    """Average precision and precisions at 1, 5, 10, one result after the other."""
    ranked = [row for row in ranking if row >= 0 and (row not in junk or row in positive)]
    area, hits, positions = 0.0, 0, []
    for index, row in enumerate(ranked):
        if row in positive:
            before = 1.0 if index == 0 else hits / index
            hits += 1
            area += (before + hits / (index + 1)) / 2 / len(positive)
            positions.append(index + 1)
    precisions = []
    for k in (1, 5, 10):
        last = min(k, positions[-1]) if positions else k
        precisions.append(sum(position <= last for position in positions) / last)
    return area, precisions


@st.composite
def revisits(draw):
    """Rankings of part of the gallery with padding, and lists that may be empty or overlap."""
    size = draw(st.integers(1, 14))
    photos = st.sets(st.integers(0, size - 1), max_size=5).map(sorted)
    kinds = st.fixed_dictionaries({"easy": photos, "hard": photos, "junk": photos})
    truth = draw(st.lists(kinds, min_size=1, max_size=4))
    rankings = [draw(st.permutations(range(size))) for _ in truth]
    pads = [draw(st.sets(st.integers(0, size - 1))) for _ in truth]
    rows = np.array(rankings).reshape(len(truth), size)
    for query, positions in enumerate(pads):
        rows[query, list(positions)] = -1
    return rows, truth


@settings(max_examples=60, deadline=None)
@given(revisit=revisits())
def test_the_protocols_equal_a_loop(revisit):
    rows, truth = revisit
    result = revisited.evaluate(rows, truth)
    for protocol, positive, junk in (
        ("easy", ["easy"], ["junk", "hard"]),
        ("medium", ["easy", "hard"], ["junk"]),
        ("hard", ["hard"], ["junk", "easy"]),
    ):
        precisions, precisions_at = [], []
        for ranking, lists in zip(rows.tolist(), truth, strict=True):
            relevant = set().union(*(lists[kind] for kind in positive))
            if not relevant:
                precisions.append(np.nan)
                continue
            area, values = loop_revisited(ranking, relevant, set().union(*(lists[k] for k in junk)))
            precisions.append(area)
            precisions_at.append(values)
        metrics = result[protocol]
        np.testing.assert_allclose(metrics["average_precision"], precisions, rtol=0, atol=1e-12)
        mean = np.nanmean(precisions) if precisions_at else 0
        assert metrics["map"] == pytest.approx(mean, abs=1e-12)
        means = [metrics[f"mp_at_{k}"] for k in (1, 5, 10)]
        expected = np.mean(precisions_at, axis=0) if precisions_at else np.zeros(3)
        np.testing.assert_allclose(means, expected, atol=1e-12)


def test_a_protocol_computed_by_hand():
    truth = [{"easy": [0, 1], "hard": [2], "junk": [3]}, {"easy": [], "hard": [0], "junk": []}]
    rows = np.array([[3, 0, 4, 2, 1], [4, 0, 1, 2, 3]])
    easy = revisited.evaluate(rows, truth, precision_at=(1, 3))["easy"]
    # Without junk and hard the first ranking is 0 4 1: positions 0 and 2 of the two positives.
    first = ((1 + 1) + (1 / 2 + 2 / 3)) / 4
    np.testing.assert_allclose(easy["average_precision"], [first, np.nan])
    assert (easy["map"], easy["mp_at_1"]) == (pytest.approx(first), 1)
    assert easy["mp_at_3"] == pytest.approx(2 / 3)
    hard = revisited.evaluate(rows, truth)["hard"]
    # 4 2, the hard one at position 1; and 0 at position 1 of the second ranking.
    np.testing.assert_allclose(hard["average_precision"], [1 / 4, 1 / 4])


def test_the_numbers_of_rankings_and_queries_must_agree():
    with pytest.raises(ValueError, match="1 rankings for 2 queries"):
        revisited.evaluate(np.zeros((1, 2), int), [{"easy": [], "hard": [], "junk": []}] * 2)


def test_the_published_evaluation_of_the_protocols(shared):
    folder = shared / "reference" / "revisitop"
    case = json.loads((folder / "case.json").read_text())
    ranks = np.load(folder / "ranks_database_by_query.npy").T
    result = revisited.evaluate(ranks, case["ground_truth"])
    assert set(result) == set(case["expected"])
    for protocol, expected in case["expected"].items():
        metrics = result[protocol]
        assert metrics["map"] == pytest.approx(expected["map"], abs=1e-9)
        precisions = [np.nan if value is None else value for value in expected["ap"]]
        np.testing.assert_allclose(metrics["average_precision"], precisions, rtol=0, atol=1e-9)
        means = [metrics[f"mp_at_{k}"] for k in (1, 5, 10)]
        np.testing.assert_allclose(means, expected["mean_precision_at_1_5_10"], atol=1e-9)


def test_a_repeated_positive_is_a_hit_once():
    truth = [{"easy": [0, 1], "hard": [], "junk": [2]}]
    repeated = revisited.evaluate(np.array([[0, 0, 2, 1, 0]]), truth)
    expected = revisited.evaluate(np.array([[0, 3, 2, 1, 4]]), truth)
    assert (
        repeated["easy"]["map"] == expected["easy"]["map"] == pytest.approx((2 + 1 / 2 + 2 / 3) / 4)
    )


@pytest.mark.parametrize("rows", [[-1], [0.5], ["1"], [[0]], [True], None, [float("inf")]])
def test_ground_truth_that_lists_no_rows_is_refused(rows):
    with pytest.raises(ValueError, match="is not a list of rows"):
        revisited.evaluate(np.zeros((1, 2), int), [{"easy": rows, "hard": [], "junk": []}])

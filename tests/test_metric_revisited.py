"""The easy, medium and hard protocols against the published evaluation and a naive loop."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.metric import revisited


def loop_revisited(ranking: list[int], positive: set[int], junk: set[int]) -> tuple[float, list]:
    """Return the average precision and the precisions at 1, 5 and 10, result by result."""
    kept = [row for row in ranking if row >= 0 and (row not in junk or row in positive)]
    area, found, places = 0.0, 0, []
    for place, row in enumerate(kept):
        if row in positive:
            before = 1.0 if place == 0 else found / place
            found += 1
            area += (before + found / (place + 1)) / 2 / len(positive)
            places.append(place + 1)
    precisions = []
    for k in (1, 5, 10):
        last = min(k, places[-1]) if places else k
        precisions.append(sum(place <= last for place in places) / last)
    return area, precisions


@st.composite
def revisits(draw):
    """Generate padded rankings of part of the gallery, and lists that may be empty or overlap."""
    size = draw(st.integers(1, 14))
    photos = st.sets(st.integers(0, size - 1), max_size=5).map(sorted)
    kinds = st.fixed_dictionaries({"easy": photos, "hard": photos, "junk": photos})
    truth = draw(st.lists(kinds, min_size=1, max_size=4))
    rankings = [draw(st.permutations(range(size))) for _ in truth]
    pads = [draw(st.sets(st.integers(0, size - 1))) for _ in truth]
    rows = np.array(rankings).reshape(len(truth), size)
    for query, places in enumerate(pads):
        rows[query, list(places)] = -1
    return rows, truth


@settings(max_examples=60, deadline=None)
@given(revisit=revisits())
def test_the_protocols_equal_a_naive_loop(revisit):
    rows, truth = revisit
    result = revisited.evaluate(rows, truth)
    for protocol, positive, junk in (
        ("easy", ["easy"], ["junk", "hard"]),
        ("medium", ["easy", "hard"], ["junk"]),
        ("hard", ["hard"], ["junk", "easy"]),
    ):
        precisions, at = [], []
        for ranking, one in zip(rows.tolist(), truth, strict=True):
            wanted = set().union(*(one[kind] for kind in positive))
            if not wanted:
                precisions.append(np.nan)
                continue
            area, values = loop_revisited(ranking, wanted, set().union(*(one[k] for k in junk)))
            precisions.append(area)
            at.append(values)
        found = result[protocol]
        np.testing.assert_allclose(found["average_precision"], precisions, rtol=0, atol=1e-12)
        assert found["map"] == pytest.approx(np.nanmean(precisions) if at else 0, abs=1e-12)
        means = [found[f"mp_at_{k}"] for k in (1, 5, 10)]
        np.testing.assert_allclose(means, np.mean(at, axis=0) if at else np.zeros(3), atol=1e-12)


def test_a_protocol_counted_by_hand():
    truth = [{"easy": [0, 1], "hard": [2], "junk": [3]}, {"easy": [], "hard": [0], "junk": []}]
    rows = np.array([[3, 0, 4, 2, 1], [4, 0, 1, 2, 3]])
    easy = revisited.evaluate(rows, truth, precision_at=(1, 3))["easy"]
    # Without junk and hard, the first ranking is 0 4 1, with positives at ranks 0 and 2.
    first = ((1 + 1) + (1 / 2 + 2 / 3)) / 4
    np.testing.assert_allclose(easy["average_precision"], [first, np.nan])
    assert (easy["map"], easy["mp_at_1"]) == (pytest.approx(first), 1)
    assert easy["mp_at_3"] == pytest.approx(2 / 3)
    hard = revisited.evaluate(rows, truth)["hard"]
    # 4 2, the hard one at rank 1; and 0 at rank 1 of the second ranking.
    np.testing.assert_allclose(hard["average_precision"], [1 / 4, 1 / 4])


def test_the_number_of_rankings_must_equal_the_number_of_queries():
    with pytest.raises(ValueError, match="1 rankings for 2 queries"):
        revisited.evaluate(np.zeros((1, 2), int), [{"easy": [], "hard": [], "junk": []}] * 2)


def test_the_published_evaluation_of_the_protocols(shared):
    folder = shared / "reference" / "revisitop"
    case = json.loads((folder / "case.json").read_text())
    ranks = np.load(folder / "ranks_database_by_query.npy").T
    result = revisited.evaluate(ranks, case["ground_truth"])
    assert set(result) == set(case["expected"])
    for protocol, expected in case["expected"].items():
        found = result[protocol]
        assert found["map"] == pytest.approx(expected["map"], abs=1e-9)
        wanted = [np.nan if one is None else one for one in expected["ap"]]
        np.testing.assert_allclose(found["average_precision"], wanted, rtol=0, atol=1e-9)
        means = [found[f"mp_at_{k}"] for k in (1, 5, 10)]
        np.testing.assert_allclose(means, expected["mean_precision_at_1_5_10"], atol=1e-9)

"""The planner: what it reckons, what it chooses, and what it really finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.error import UserError
from landmark.search import HNSW, IVF, IVFPQ, Auto, Flat
from landmark.search import auto as planning
from landmark.search.plan import GIB, Machine, Work, best, shortest
from landmark.search.recall import recall_at_k
from landmark.search.reckoning import expected_recall, lists_to_probe, plans

MACHINE = Machine(products=60e9, scans=6e9, memory=16 * GIB)
GLDV2 = Work(queries=117_577, rows=761_757, dim=512, k=100)


def vectors(rows, dim=32, seed=0, landmarks=60):
    random = np.random.default_rng(seed)
    photos = random.standard_normal((landmarks, dim))[random.integers(0, landmarks, rows)]
    photos = photos + 0.6 * random.standard_normal((rows, dim))
    return (photos / np.linalg.norm(photos, axis=1, keepdims=True)).astype(np.float32)


works = st.builds(
    Work,
    queries=st.integers(1, 10**6),
    rows=st.integers(1, 10**9),
    dim=st.sampled_from([1, 7, 64, 512, 3072]),
    k=st.integers(1, 1000),
    value_bytes=st.sampled_from([2, 4]),
    searches=st.integers(1, 3),
)
machines = st.builds(
    Machine,
    products=st.floats(1e9, 1e14),
    scans=st.floats(1e8, 1e12),
    memory=st.integers(2**20, 2**40),
)


@given(works, machines, st.floats(0.1, 1))
@settings(max_examples=60, deadline=None)
def test_the_plan_fits_and_reaches_the_recall_and_none_such_is_quicker(work, machine, recall):
    weighed = plans(work, machine, recall)
    chosen = best(weighed, work, machine, recall)
    able = [one for one in weighed if one.bytes <= machine.memory and one.recall >= recall]
    if able:
        assert chosen in able
        assert chosen.total(work) == min(one.total(work) for one in able)
    else:
        assert chosen.search == "flat"
    assert chosen in shortest(weighed, chosen, work)
    for one in weighed:
        assert one.bytes >= 0
        assert one.total(work) > 0
        if one.search.startswith("ivf"):
            assert 1 <= one.settings["n_probe"] <= one.settings["n_lists"] <= work.rows


@given(st.integers(1, 10**6), st.floats(0.01, 1))
def test_the_lists_probed_are_the_fewest_that_reach_the_recall(lists, recall):
    probed = lists_to_probe(recall, lists)
    assert expected_recall(probed, lists) >= recall - 1e-9
    if probed > 1:
        assert expected_recall(probed - 1, lists) < recall + 1e-9


def test_more_memory_never_costs_time_and_a_lower_recall_never_does():
    def seconds(memory, recall):
        machine = Machine(MACHINE.products, MACHINE.scans, memory)
        return best(plans(GLDV2, machine, recall), GLDV2, machine, recall).total(GLDV2)

    by_memory = [seconds(gigabytes * GIB // 4, 0.9) for gigabytes in (1, 2, 4, 8, 64)]
    assert by_memory == sorted(by_memory, reverse=True)
    by_recall = [seconds(16 * GIB, recall) for recall in (0.5, 0.8, 0.9, 0.95, 1.0)]
    assert by_recall == sorted(by_recall)


def test_a_billion_photos_are_coded_where_memory_holds_no_vectors():
    work = Work(queries=10**6, rows=10**9, dim=512, k=100, value_bytes=2)
    machine = Machine(60e9, 6e9, 96 * GIB)
    assert best(plans(work, machine, 0.8), work, machine, 0.8).search == "ivfpq"


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_recall_counts_the_true_rows_found(seed):
    random = np.random.default_rng(seed)
    queries, wide, rows = random.integers(1, 6), random.integers(1, 9), 20
    true, found = (
        np.array([random.permutation(rows)[:wide] for _ in range(queries)]) for _ in range(2)
    )
    for lines in (true, found):
        for line in lines:
            line[wide - random.integers(0, wide) :] = -1
    shares = [len(set(a[a >= 0]) & set(b[b >= 0])) for a, b in zip(found, true, strict=True)]
    assert recall_at_k(found, true) == pytest.approx(sum(shares) / (true >= 0).sum())


@pytest.fixture
def every_size_is_planned(monkeypatch):
    monkeypatch.setattr(planning, "_SMALL", 0)


def test_small_work_and_full_recall_are_searched_exactly(capsys):
    gallery, query = vectors(300), vectors(5, seed=1)
    for settings_ in ({}, {"recall": 1.0}):
        np.testing.assert_array_equal(
            Auto(**settings_)(query, gallery, 7)[0], Flat()(query, gallery, 7)[0]
        )
    assert capsys.readouterr().out.count("flat, as ") == 2


@pytest.mark.parametrize("kind", ["ivf", "ivfpq", "hnsw"])
def test_the_recall_asked_for_is_the_recall_measured(
    monkeypatch, capsys, every_size_is_planned, kind
):
    """Whatever kind the plan takes, and however badly it starts, it looks wider until it is so."""

    def of_kind(found, work, machine, recall):
        one = next(plan for plan in found if plan.search == kind)
        narrow = {"n_probe": 1} if "n_probe" in one.settings else {"ef_search": 8}
        return type(one)(kind, {**one.settings, **narrow}, one.bytes, recall, one.build, 0.0)

    timed = planning._timed
    monkeypatch.setattr(planning, "best", of_kind)
    # Exact search of so little is always the quickest: let it look slow.
    monkeypatch.setattr(
        planning,
        "_timed",
        lambda search, *given: (
            (timed(search, *given)[0], 1e9) if isinstance(search, Flat) else timed(search, *given)
        ),
    )
    gallery, query = vectors(4000), vectors(100, seed=1)
    search = Auto(recall=0.9, sample=100)
    rows, scores = search(query, gallery, 20)
    true, _ = Flat()(query, gallery, 20)
    assert recall_at_k(rows, true) >= 0.9
    printed = capsys.readouterr().out
    reached = [line for line in printed.splitlines() if "measured on 100 queries" in line]
    assert f"search={kind}" in reached[-1]
    used = search._kept.get(gallery).search
    assert isinstance(used, {"ivf": IVF, "ivfpq": IVFPQ, "hnsw": HNSW}[kind])
    np.testing.assert_allclose(scores[:, 0], (query * gallery[rows[:, 0]]).sum(1), atol=0.2)
    search(query[:10], gallery, 5)
    assert capsys.readouterr().out == ""  # the plan holds for the gallery


def test_what_is_no_quicker_than_exact_search_is_left(monkeypatch, capsys, every_size_is_planned):
    monkeypatch.setattr(
        planning, "best", lambda found, *_: next(one for one in found if one.search == "ivf")
    )
    timed = planning._timed
    monkeypatch.setattr(
        planning,
        "_timed",
        lambda search, *given: (
            timed(search, *given)[0],
            0.0 if isinstance(search, Flat) else 1.0,
        ),
    )
    gallery, query = vectors(3000), vectors(50, seed=1)
    rows, _ = Auto(recall=0.9999)(query, gallery, 50)
    np.testing.assert_array_equal(rows, Flat()(query, gallery, 50)[0])
    assert "flat is as quick" in capsys.readouterr().out


def test_memory_too_small_for_any_index_leaves_exact_search(capsys, every_size_is_planned):
    gallery, query = vectors(3000), vectors(50, seed=1)
    rows, _ = Auto(memory=1e-5)(query, gallery, 10)
    np.testing.assert_array_equal(rows, Flat()(query, gallery, 10)[0])
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given_", [{"recall": 0}, {"recall": 95}, {"memory": 0}, {"sample": 0}, {"device": "gpu"}]
)
def test_a_setting_out_of_its_range_is_named(given_):
    with pytest.raises(UserError, match=f"search.{next(iter(given_))}="):
        Auto(**given_)

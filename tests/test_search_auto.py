"""Automatic search: its measurements, its choice, and its recall."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.error import UserError
from landmark.search import IVF, IVFPQ, Auto, Flat, auto
from landmark.search.flat import FlatIndex
from landmark.search.top_k import recall_at_k


def vectors(rows, dim=32, seed=0, landmarks=60):
    random = np.random.default_rng(seed)
    photos = random.standard_normal((landmarks, dim))[random.integers(0, landmarks, rows)]
    photos = photos + 0.6 * random.standard_normal((rows, dim))
    return (photos / np.linalg.norm(photos, axis=1, keepdims=True)).astype(np.float32)


GALLERY, QUERY = vectors(4000), vectors(100, seed=1)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_recall_is_the_share_of_true_rows(seed):
    random = np.random.default_rng(seed)
    queries, wide, rows = random.integers(1, 6), random.integers(1, 9), 20
    true, hits = (
        np.array([random.permutation(rows)[:wide] for _ in range(queries)]) for _ in range(2)
    )
    for lines in (true, hits):
        for line in lines:
            line[wide - random.integers(0, wide) :] = -1
    shares = [len(set(a[a >= 0]) & set(b[b >= 0])) for a, b in zip(hits, true, strict=True)]
    assert recall_at_k(hits, true) == pytest.approx(sum(shares) / (true >= 0).sum())


def test_small_work_and_full_recall_are_searched_exactly(capsys):
    for given_settings in ({}, {"recall": 1.0}):
        index = Auto(**given_settings).build(GALLERY)
        np.testing.assert_array_equal(
            index.search(QUERY, 7)[0], Flat().build(GALLERY).search(QUERY, 7)[0]
        )
        assert isinstance(index.chosen, FlatIndex)
    printed = capsys.readouterr().out
    assert "flat: exact search takes about 0.0" in printed
    assert "flat: recall=1\n" in printed


def test_nothing_to_search_is_searched_exactly():
    for query, gallery in ((QUERY[:0], GALLERY), (QUERY, GALLERY[:0])):
        assert Auto().build(gallery).search(query, 3)[0].tolist() == [[-1] * 3] * len(query)


@pytest.fixture
def slow_flat(monkeypatch):
    """Make exact search look slow; on so little data it is always the fastest."""
    timed = auto._timed

    def slow(index, *given):
        rows, seconds = timed(index, *given)
        return rows, 1e9 if isinstance(index, FlatIndex) else seconds

    monkeypatch.setattr(auto, "_timed", slow)


@pytest.mark.parametrize(
    ("memory", "kind", "storage"),
    [(1.0, IVF, "float32"), (8.5e-4, IVF, "float16"), (7e-4, IVF, "sq8"), (6e-4, IVFPQ, None)],
)
@pytest.mark.parametrize("sample_rows", [1500, 16384])
def test_the_widest_storage_that_fits_is_chosen(
    monkeypatch, capsys, slow_flat, memory, kind, storage, sample_rows
):
    monkeypatch.setattr(auto, "_SAMPLE_ROWS", sample_rows)
    index = Auto(recall=0.9, sample=100, memory=memory, searches=9).build(GALLERY)
    rows, scores = index.search(QUERY, 20)
    true, _ = Flat().build(GALLERY).search(QUERY, 20)
    assert recall_at_k(rows, true) >= 0.9
    used = index.chosen.settings
    assert (type(used), getattr(used, "storage", None)) == (kind, storage)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "measured on 100 queries: recall@20" in last
    assert last.endswith(auto._command(used))
    np.testing.assert_allclose(scores[:, 0], (QUERY * GALLERY[rows[:, 0]]).sum(1), atol=0.2)


def test_settings_are_widened_until_the_recall_is_reached(monkeypatch, capsys, slow_flat):
    """The first candidate has a low recall."""
    narrow = IVFPQ(n_lists=60, n_probe=1, refine=1)
    monkeypatch.setattr(auto.AutoIndex, "_candidate", lambda _: narrow)
    index = Auto(recall=0.95, sample=100, searches=9).build(GALLERY)
    rows, _ = index.search(QUERY, 20)
    assert recall_at_k(rows, Flat().build(GALLERY).search(QUERY, 20)[0]) >= 0.95
    assert index.chosen.settings.n_probe > 1


def test_a_choice_is_reused_until_there_are_more_queries_or_results(capsys, slow_flat):
    index = Auto(recall=0.9).build(GALLERY)
    for queries, k, decides in ((40, 9, True), (10, 5, False), (80, 9, False), (81, 9, True)):
        index.search(QUERY[:queries], k)
        assert ("search=auto:" in capsys.readouterr().out) == decides
    index.search(QUERY[:10], 10)
    assert "search=auto:" in capsys.readouterr().out


def test_auto_settings_build_an_undecided_index(capsys, slow_flat):
    index = Auto(recall=0.9).build(GALLERY)
    index.search(QUERY, 9)
    other = index.settings.build(GALLERY[:300])
    assert other.chosen is None
    other.search(QUERY, 9)
    assert "100 queries in 300 x 32, k=9" in capsys.readouterr().out


def test_indexes_slower_than_exact_search_are_dropped(monkeypatch, capsys):
    timed, flat_seconds = auto._timed, iter([1e9, 0.0])  # slow on the sample, fast on the gallery

    def fast_on_gallery(index, *given):
        rows, seconds = timed(index, *given)
        return rows, next(flat_seconds) if isinstance(index, FlatIndex) else seconds

    monkeypatch.setattr(auto, "_timed", fast_on_gallery)
    index = Auto(recall=0.9999, searches=9).build(GALLERY)
    rows, _ = index.search(QUERY, 50)
    np.testing.assert_array_equal(rows, Flat().build(GALLERY).search(QUERY, 50)[0])
    assert isinstance(index.chosen, FlatIndex)
    assert "flat is chosen: ivf is no faster" in capsys.readouterr().out


def test_an_index_predicted_to_be_slower_is_not_built(monkeypatch, capsys):
    monkeypatch.setattr(auto, "_INSTANT_SECONDS", 0)
    index = Auto(sample=20).build(GALLERY)
    index.search(QUERY[:20], 9)
    assert isinstance(index.chosen, FlatIndex)
    printed = capsys.readouterr().out
    assert "flat is chosen" in printed
    assert "built in" not in printed


def test_memory_too_small_for_any_index_means_exact_search(capsys, slow_flat):
    rows, _ = Auto(memory=1e-5).build(GALLERY).search(QUERY, 10)
    np.testing.assert_array_equal(rows, Flat().build(GALLERY).search(QUERY, 10)[0])
    assert "no index fits" in capsys.readouterr().out


def test_free_memory_respects_the_limit_of_the_container(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    monkeypatch.setattr(auto, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(auto, "_CGROUP", tmp_path)
    assert auto.free_memory() == 2**21
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert auto.free_memory() == 2**21
    (tmp_path / "memory.max").write_text("5000\n")
    assert auto.free_memory() == 4000


@pytest.mark.parametrize(
    "given_", [{"recall": 0}, {"recall": 95}, {"memory": 0}, {"sample": 0}, {"device": "gpu"}]
)
def test_a_setting_out_of_range_is_named(given_):
    with pytest.raises(UserError, match=f"Auto: {next(iter(given_))}="):
        Auto(**given_)

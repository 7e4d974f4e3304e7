"""Parts of the re-rankers: neighbours, top k, padded rankings, temporary arrays."""

import tempfile
import time

import numpy as np
import pytest
from exact_descriptors import cosines_of, exact_unit, nearest
from hypothesis import given, settings
from hypothesis import strategies as st

import landmark.disk.temporary as scratch_module
import landmark.rerank.neighbours as neighbours_module
import landmark.rerank.ranking as ranking_module
from landmark.artifact.stacked import StackedVectors
from landmark.disk.temporary import temporary_array
from landmark.error import UserError
from landmark.rerank.neighbours import all_neighbours, lowest_cosines, own_first, pair_cosines
from landmark.rerank.parallel import in_parallel
from landmark.rerank.ranking import Best, filled_up, listed_in
from landmark.search import Flat

seeds = st.integers(0, 10**6)


@given(seeds, st.integers(1, 8), st.integers(1, 30), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_neighbours_across_indexes_equal_those_of_one_index(seed, queries, gallery, k):
    photos = exact_unit(np.random.default_rng(seed), 2, queries + gallery)
    sets, k = (photos[:queries], photos[queries:]), min(k, queries + gallery)
    cosines = cosines_of(photos, photos)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours_module, "_BLOCK_ROWS", 7)
        rows, scores = all_neighbours([Flat().build(photos) for photos in sets], k)
        lowest = lowest_cosines(Flat().build(StackedVectors(sets)))
    np.testing.assert_array_equal(rows, nearest(cosines, k, own=True))
    np.testing.assert_array_equal(scores, np.take_along_axis(cosines, rows, 1))
    np.testing.assert_array_equal(lowest, cosines.min(axis=1))
    left, right = np.indices(cosines.shape).reshape(2, -1)
    np.testing.assert_array_equal(pair_cosines(StackedVectors(sets), left, right), cosines.ravel())


def test_a_photo_missed_by_the_search_is_put_first_in_its_neighbours():
    rows = np.array([[4, 3], [1, 5], [6, -1]], np.int32)
    scores = np.array([[0.9, 0.8], [1, 0.5], [0.3, -np.inf]], np.float32)
    own_first(rows, scores, np.array([3, 1, 2]))
    assert rows.tolist() == [[3, 4], [1, 5], [2, 6]]
    assert scores[2, 0] == 1


@given(seed=seeds, queries=st.integers(1, 5), photos=st.integers(1, 40), k=st.integers(1, 10))
@settings(max_examples=40, deadline=None)
def test_the_best_of_blocks_equal_the_best_of_all(seed, queries, photos, k):
    random = np.random.default_rng(seed)
    values = random.integers(-2, 6, (queries, photos)).astype("f4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking_module, "_WAITING_RESULTS", 20)
        best = Best(queries, k)
        for first in range(0, photos, 7):
            query, row = np.indices(values[:, first : first + 7].shape).reshape(2, -1)
            best.add(best.better(query, row + first, values[query, row + first]))
        rows, scores = best.result()
    for query, row in enumerate(rows.tolist()):
        order = np.argsort(-values[query], kind="stable")
        wanted = [r for r in order.tolist() if values[query, r] > 0][:k]
        assert row == wanted + [-1] * (k - len(wanted))
        np.testing.assert_array_equal(scores[query, : len(wanted)], values[query, wanted])


@given(seeds, st.integers(1, 20), st.integers(1, 10))
@settings(max_examples=60, deadline=None)
def test_short_rankings_are_filled_up_with_the_former_ranking(seed, photos, k):
    random = np.random.default_rng(seed)

    def ranking(lowest):
        rows, scores = np.full((4, k), -1, np.int32), np.full((4, k), -np.inf, np.float32)
        for i in range(4):
            found = int(random.integers(lowest, min(k, photos) + 1))
            rows[i, :found] = random.permutation(photos)[:found]
            scores[i, :found] = -np.sort(-random.random(found))
        return rows, scores

    (rows, scores), (former, former_scores) = ranking(0), ranking(0)
    after, after_scores = filled_up(rows, scores, former, former_scores)
    for i in range(4):
        first = rows[i][rows[i] >= 0].tolist()
        rest = [r for r in former[i].tolist() if r >= 0 and r not in first]
        wanted = (first + rest)[:k]
        assert after[i].tolist() == wanted + [-1] * (k - len(wanted))
        np.testing.assert_array_equal(after_scores[i, : len(first)], scores[i, : len(first)])
        assert np.isfinite(after_scores[i, : len(wanted)]).all()
        assert (after_scores[i, 1:] <= after_scores[i, :-1]).all()
    listed = listed_in(former, rows)
    for i in range(4):
        for place, row in enumerate(former[i]):
            assert row < 0 or listed[i, place] == (row in rows[i])


def test_large_temporary_arrays_are_files_and_a_full_disk_is_reported(monkeypatch):
    monkeypatch.setattr(scratch_module, "_MAX_BYTES_IN_MEMORY", 100)
    assert not isinstance(temporary_array((5, 4), np.int32), np.memmap)
    array = temporary_array((50, 4), np.int32)
    assert isinstance(array, np.memmap)
    array[:] = np.arange(200).reshape(50, 4)
    np.testing.assert_array_equal(array[7], [28, 29, 30, 31])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch_module.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=rf"{tempfile.gettempdir()} has no space .*TMPDIR"):
        temporary_array((50, 4), np.int32)


def test_parallel_results_come_in_order():
    assert list(in_parallel(lambda i: i * i, range(50))) == [i * i for i in range(50)]
    assert list(in_parallel(len, [])) == []


def test_a_failing_block_stops_the_others():
    begun = []

    def work(i):
        begun.append(i)
        if i == 3:
            raise ValueError(i)
        time.sleep(0.01)

    with pytest.raises(ValueError, match="3"):
        list(in_parallel(work, range(100)))
    assert len(begun) < 100

"""Cost of a step, and the confidence interval of its change."""

import time
import weakref

import numpy as np
import pytest
from exact_descriptors import exact_retrieval

from landmark.metric.bootstrap import mean_interval
from landmark.rerank import DBA, AlphaQE
from landmark.rerank.chain import run_chain
from landmark.rerank.memory import PeakMemory
from landmark.score.ground_truth import LandmarkGroundTruth


def test_peak_memory_counts_only_the_block():
    held = np.ones(2**24)  # 128 MB before
    with PeakMemory() as memory:
        passing = np.ones(2**25)  # 256 MB, freed in the block
        time.sleep(0.3)
        del passing
    assert memory.bytes / 2**20 == pytest.approx(256, abs=30)
    with PeakMemory() as memory:
        time.sleep(0.05)
    assert memory.bytes < 30 * 2**20
    assert held.all()


def test_mapped_files_are_not_counted(tmp_path):
    np.save(tmp_path / "stored.npy", np.ones(2**24))
    stored = np.load(tmp_path / "stored.npy", mmap_mode="r")
    with PeakMemory() as memory:
        assert stored.sum() == 2**24
    assert memory.bytes < 60 * 2**20


def test_a_change_is_paired_by_query_and_timed():
    first = exact_retrieval(0, 30, 60, 20)
    random = np.random.default_rng(0)
    truth = LandmarkGroundTruth(random.integers(0, 3, 30), random.integers(0, 3, 60))

    def reverse(retrieval):
        time.sleep(0.2)
        return retrieval.with_ranking(retrieval.rows[:, ::-1], retrieval.scores)

    search, turned, back = run_chain(lambda: first, {"turn": reverse, "back": reverse}, truth)
    assert search.changes == {}
    change = turned.precisions["map_at_100"] - search.precisions["map_at_100"]
    assert turned.changes["map_at_100"] == mean_interval(change)
    low, high = turned.changes["map_at_100"][1:]
    assert low < np.nanmean(change) < high
    assert turned.seconds >= 0.2
    assert back.metrics == search.metrics
    before, after = (step.metrics["map_at_100"] for step in (search, turned))
    words = f"mAP@100 {before:.4f} → {after:.4f} ({after - before:+.4f}, "
    assert words in turned.summary(truth.labels)
    assert turned.summary({}).split()[0] == "turn"


def test_steps_do_not_keep_indexes_alive():
    indexes = []

    def search():
        retrieval = exact_retrieval(0, 9, 40, 12)
        indexes.append(weakref.ref(retrieval.index))
        return retrieval

    def same(retrieval):
        indexes.append(weakref.ref(retrieval.index))
        return retrieval

    alive = []
    chain = {"dba": DBA(n=3), "same": same, "alpha_qe": AlphaQE(n=2)}
    steps = []
    for step in run_chain(search, chain, None):
        steps.append(step)
        alive.append([index() is not None for index in indexes])
    assert alive == [[True], [False], [False, True], [False, True]]
    assert [index() for index in indexes] == [None, None]
    first = steps[-1].first(2)
    assert (first.name, first.rows.shape, first.rows.base) == ("alpha_qe", (9, 2), None)
    np.testing.assert_array_equal(first.scores, steps[-1].scores[:, :2])

"""Bootstrap intervals of a mean."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from landmark.metric.bootstrap import mean_interval


def test_the_interval_equals_scipys():
    values = np.random.default_rng(0).standard_normal(200) ** 3
    ours = mean_interval(values, confidence=0.9, resamples=20_000, seed=1)
    peer = bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert ours[1:] == pytest.approx(tuple(peer), abs=0.02 * (peer.high - peer.low))


def test_the_interval_has_its_nominal_coverage():
    random = np.random.default_rng(0)
    held = [
        low <= 0.5 <= high
        for _, low, high in (
            mean_interval(random.random(80), resamples=400, seed=seed) for seed in range(300)
        )
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.04)


def test_the_seed_determines_the_interval_and_nan_queries_are_ignored():
    values = np.random.default_rng(0).random(50)
    with_gaps = np.insert(values, [3, 20, 50], np.nan)
    assert mean_interval(values) == mean_interval(with_gaps)
    assert mean_interval(values) != mean_interval(values, seed=1)
    assert mean_interval([np.nan]) == (0, 0, 0)


def test_many_queries_are_resampled_in_blocks(monkeypatch):
    import landmark.metric.bootstrap as module

    values = np.random.default_rng(0).random(300)
    whole = mean_interval(values, resamples=100)
    monkeypatch.setattr(module, "BLOCK_SIZE", 1000)
    assert mean_interval(values, resamples=100) == pytest.approx(whole)

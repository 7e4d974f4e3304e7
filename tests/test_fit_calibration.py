"""Calibrations equal scikit-learn's, and thresholds keep the precision on other queries."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.calibration import Calibration
from landmark.artifact.recognition import Recognition
from landmark.error import UserError
from landmark.fit.calibration import fit_calibration
from landmark.metric.recognition import threshold_curve

META = {"settings": {"k": 3, "rival": 0.5}, "stores": {}}


def recognition(scores, correct, predicted=None, truth=True):
    scores = np.asarray(scores, np.float64)
    count = len(scores)
    landmarks = np.full(count, "arch")
    if predicted is not None:
        landmarks = np.where(predicted, landmarks, "")
        scores = np.where(predicted, scores, -np.inf)
    return Recognition(
        np.array([f"q{row}" for row in range(count)]),
        landmarks,
        scores,
        truth=np.where(correct, "arch", "") if truth else None,
        meta=META,
    )


def drawn(seed, count=200, steps=None):
    """Return scores, and predictions that are right more often where the score is higher."""
    random = np.random.default_rng(seed)
    scores = random.normal(0.4, 0.3, count)
    if steps:
        scores = np.round(scores * steps) / steps
    return scores, random.random(count) < 1 / (1 + np.exp(-8 * (scores - 0.3)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), steps=st.sampled_from([None, 10]), scale=st.sampled_from([1, 50]))
def test_platt_equals_scikit_learn(seed, steps, scale):
    sklearn = pytest.importorskip("sklearn.calibration")
    scores, correct = drawn(seed, steps=steps)
    scores = scores * scale
    fitted = fit_calibration(recognition(scores, correct))
    slope, intercept = sklearn._sigmoid_calibration(scores, correct.astype(int))
    expected = 1 / (1 + np.exp(slope * scores + intercept))
    np.testing.assert_allclose(fitted(scores), expected, atol=2e-3)
    order = np.argsort(scores)
    assert (np.diff(fitted(scores)[order]) >= 0).all()
    assert len(np.unique(fitted(scores))) == len(np.unique(scores))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), steps=st.sampled_from([None, 10]))
def test_isotonic_equals_scikit_learn(seed, steps):
    sklearn = pytest.importorskip("sklearn.isotonic")
    scores, correct = drawn(seed, steps=steps)
    fitted = fit_calibration(recognition(scores, correct), method="isotonic")
    peer = sklearn.IsotonicRegression(out_of_bounds="clip").fit(scores, correct)
    asked = np.linspace(-1, 2, 301)
    np.testing.assert_allclose(fitted(asked), peer.predict(asked), atol=1e-6)
    assert fitted(np.array([-np.inf])).tolist() == [0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), count=st.integers(1, 40))
def test_the_curve_counts_what_each_threshold_keeps(seed, count):
    random = np.random.default_rng(seed)
    scores, correct = random.integers(0, 9, count) / 8, random.random(count) < 0.6
    curve = threshold_curve(scores, correct)
    assert curve.thresholds.tolist() == sorted(set(scores.tolist()), reverse=True)
    for threshold, kept, right in zip(*curve, strict=True):
        assert kept == (scores >= threshold).sum()
        assert right == (correct & (scores >= threshold)).sum()


def test_the_threshold_is_the_last_before_the_precision_falls_below():
    # 25 right: 1 - 1/26 = 0.9615; then below 0.95 until 88 are kept: 1 - 4/89 = 0.955, by chance.
    correct = np.array([True] * 25 + [False] * 3 + [True] * 60 + [False] * 90)
    scores = np.linspace(1, 0.1, len(correct))
    fitted = fit_calibration(recognition(scores, correct))
    assert fitted.threshold(0.95) == scores[24]
    kept = scores >= fitted.threshold(0.96)
    assert kept.sum() == 25
    with pytest.raises(UserError, match=r"precision=0\.99 cannot be reached.*reaches 0\.9615 at"):
        fitted.threshold(0.99)


def test_the_precision_holds_on_other_queries():
    wanted, measured = 0.9, []
    for seed in range(60):
        fitted = fit_calibration(recognition(*drawn(seed, 300)))
        scores, correct = drawn(1000 + seed, 300)
        kept = scores >= fitted.threshold(wanted)
        measured.append(correct[kept].mean())
    assert np.mean(measured) >= wanted
    assert np.mean(np.array(measured) >= wanted - 0.03) >= 0.8


def test_a_calibration_is_read_back(tmp_path):
    for method in ("platt", "isotonic"):
        scores, correct = drawn(3)
        predicted = np.arange(200) % 7 > 0
        fitted = fit_calibration(recognition(scores, correct, predicted), method)
        fitted.write(tmp_path / method)
        read = Calibration.open(tmp_path / method)
        asked = np.linspace(-1, 2, 31)
        np.testing.assert_array_equal(read(asked), fitted(asked))
        assert read.threshold(0.8) == fitted.threshold(0.8)
        assert read.meta == fitted.meta
        assert read.meta["queries"] == 200
        assert read.meta["predicted"] == predicted.sum()
        assert read.meta["settings"] == META["settings"]
        with pytest.raises(UserError, match="already exists"):
            fitted.write(tmp_path / method)


def test_other_settings_are_named(tmp_path):
    fitted = fit_calibration(recognition(*drawn(0)))
    fitted.check_fits({"k": 3, "rival": 0.5}, "cal")
    with pytest.raises(UserError, match=r"calibration=cal .*different k \(3, now 5\)\. Recognize"):
        fitted.check_fits({"k": 5, "rival": 0.5}, "cal")


def test_what_cannot_be_calibrated_is_one_line():
    scores, correct = drawn(0)
    with pytest.raises(UserError, match="have no landmarks"):
        fit_calibration(recognition(scores, correct, truth=False))
    for same, word in ((True, "right"), (False, "wrong")):
        with pytest.raises(UserError, match=rf"all 200 predictions .* are {word}"):
            fit_calibration(recognition(scores, np.full(200, same)))
    for method in ("platt", "isotonic"):
        with pytest.raises(UserError, match="not more often right"):
            fit_calibration(recognition(np.arange(20.0), np.arange(20) < 10), method)
    with pytest.raises(UserError, match="method="):
        fit_calibration(recognition(scores, correct), method="beta")


def test_damage_is_one_line(tmp_path):
    folder = tmp_path / "cal"
    fit_calibration(recognition(*drawn(0))).write(folder)
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights[:-20])
    with pytest.raises(UserError, match="is damaged"):
        Calibration.open(folder)
    (folder / "weights.safetensors").write_bytes(weights)
    record = yaml.safe_load((folder / "fit.yaml").read_text())
    (folder / "fit.yaml").write_text(yaml.safe_dump({**record, "method": "pca"}))
    with pytest.raises(UserError, match="not a calibration"):
        Calibration.open(folder)
    (folder / "fit.yaml").write_text(yaml.safe_dump({**record, "method": "isotonic"}))
    with pytest.raises(UserError, match="scores is missing"):
        Calibration.open(folder)
    (folder / "fit.yaml").unlink()
    with pytest.raises(UserError, match=r"fit\.yaml is missing"):
        Calibration.open(folder)

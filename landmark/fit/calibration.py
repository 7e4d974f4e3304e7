"""Fit a calibration to the output of a recognition whose queries have landmarks."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.calibration import Calibration
from landmark.artifact.recognition import Recognition
from landmark.error import UserError
from landmark.metric.recognition import threshold_curve
from landmark.settings import checked

_MOST_STEPS = 100  # of Newton's method; about ten suffice


@checked
def fit_calibration(
    store: Recognition, method: Literal["platt", "isotonic"] = "platt"
) -> Calibration:
    """Fit the probability that a prediction is right as a function of its score.

    The precision to expect at a threshold counts one error more than the validation shows, and one
    prediction more: (errors + 1) / (kept + 1) is the estimate with which false discoveries stay
    below the wanted share on average, where the plain share would be too low because the threshold
    is chosen among many. So 19 right predictions without an error are the fewest that reach 0.95.

    Args:
        store: Output of a recognition whose queries have landmarks, such as a validation split.
        method: `platt` fits a logistic function with two parameters: strictly ascending, so that
            the order of predictions stays, and stable for small splits. `isotonic` fits any
            ascending function; it needs about a thousand queries, and predictions of one step get
            the same confidence.

    Raises:
        UserError: The landmarks of the queries are unknown, all predictions are right or all wrong,
            or higher scores are not more often right.

    Source:
        Platt: Probabilistic Outputs for Support Vector Machines, 1999. Zadrozny, Elkan:
        Transforming Classifier Scores into Accurate Multiclass Probability Estimates, KDD 2002
        (isotonic).
        Barber, Candès: Controlling the False Discovery Rate via Knockoffs, Annals of Statistics
        2015, equation 1.9 (the added error).
    """
    scores, correct = _validation(store)
    weights = _platt(scores, correct) if method == "platt" else _isotonic(scores, correct)
    curve = threshold_curve(scores, correct)
    errors = curve.kept - curve.correct
    weights["thresholds"] = curve.thresholds
    weights["precisions"] = 1 - (errors + 1) / (curve.kept + 1)
    meta = {
        **store.meta,
        "queries": len(store.ids),
        "predicted": len(scores),
        "correct": int(correct.sum()),
        "positives": store.positives,
    }
    return Calibration(method, weights, meta)


def _validation(store: Recognition) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the score of each prediction and whether it is correct."""
    if store.truth is None:
        raise UserError(
            "the queries of this recognition have no landmarks, so there is nothing to fit to. "
            "Recognize photos of known landmarks, and pass that output as train=."
        )
    predicted = store.is_predicted
    scores, correct = store.scores[predicted], store.is_correct[predicted]
    if correct.all() or not correct.any():
        which = "right" if len(correct) and correct.all() else "wrong"
        raise UserError(
            f"all {len(correct):,} predictions of this recognition are {which}, and a calibration "
            "needs both. Recognize more photos, including some that train lacks (hold_out=0.25)."
        )
    return scores, correct


def _platt(scores: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, NDArray]:
    """Fit slope and intercept by Newton's method to Platt's smoothed targets."""
    from scipy.special import expit

    right = int(correct.sum())
    wrong = len(correct) - right
    targets = np.where(correct, (right + 1) / (right + 2), 1 / (wrong + 2))
    centre, spread = scores.mean(), max(float(scores.std()), 1e-12)
    design = np.stack([(scores - centre) / spread, np.ones(len(scores))], axis=1)  # (P, 2)
    weights = np.array([0.0, np.log((right + 1) / (wrong + 1))])

    def loss(weights: NDArray[np.float64]) -> float:
        logits = design @ weights
        return float((np.logaddexp(0, logits) - targets * logits).sum())

    for _ in range(_MOST_STEPS):
        probabilities = expit(design @ weights)
        gradient = design.T @ (probabilities - targets)
        curvature = (design.T * (probabilities * (1 - probabilities))) @ design
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        if np.abs(step).max() < 1e-10:
            break
        length = 1.0
        while loss(weights - length * step) > loss(weights) and length > 1e-6:
            length /= 2
        weights = weights - length * step
    slope = weights[0] / spread
    if slope <= 0:
        raise UserError(
            "higher scores of this recognition are not more often right, so they cannot be "
            "calibrated. Recognize with other settings, or more photos."
        )
    return {"slope": np.array([slope]), "intercept": np.array([weights[1] - slope * centre])}


def _isotonic(scores: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, NDArray]:
    """Fit an ascending step function; keep the first and last score of each step."""
    from scipy.optimize import isotonic_regression

    distinct, position = np.unique(scores, return_inverse=True)
    counts = np.bincount(position)
    means = np.bincount(position, weights=correct) / counts
    fitted = isotonic_regression(means, weights=counts).x
    if fitted[0] == fitted[-1]:
        raise UserError(
            "higher scores of this recognition are not more often right, so they cannot be "
            "calibrated. Recognize with other settings, or more photos."
        )
    changes = fitted[1:] != fitted[:-1]
    kept = np.append(True, changes) | np.append(changes, True)
    return {"scores": distinct[kept], "confidences": fitted[kept]}

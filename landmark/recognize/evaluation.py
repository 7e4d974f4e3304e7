"""Metrics of a recognition, as the challenges define them."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.recognition import Recognition
from landmark.metric import gldv2
from landmark.recognize.recognizer import Predictions


def gap_and_top_1(
    ids: NDArray[np.str_],
    landmarks: NDArray[np.str_],
    scores: NDArray[np.floating],
    truth: NDArray[np.str_],
) -> dict[str, float]:
    """Compute the GAP and the top-1 accuracy of predictions.

    Args:
        ids: (Q,) ids of the queries, by which equal scores are ordered.
        landmarks: (Q,) predicted landmarks; "" without a prediction.
        scores: (Q,).
        truth: (Q,) landmark of each query; "" for none: a prediction there is an error.

    Example:
        >>> gap_and_top_1(
        ...     np.array(["a", "b", "c"]), np.array(["x", "x", ""]), np.array([0.9, 0.5, 0]),
        ...     np.array(["", "x", "x"]),
        ... )
        {'gap': 0.25, 'top_1': 0.5}
    """
    order = np.argsort(ids, kind="stable")
    order = order[landmarks[order] != ""]
    correct = landmarks[order] == truth[order]
    positives = int((truth != "").sum())
    return {
        "gap": gldv2.micro_ap(scores[order], correct, positives),
        "top_1": gldv2.top_1(correct, positives),
    }


def evaluate(
    recognition: Recognition, predictions: Predictions, names: NDArray[np.str_], kept: Recognition
) -> dict[str, Any]:
    """Return the metrics of a recognition whose truth is known.

    Args:
        recognition: All predictions.
        predictions: The same before they were named; for the nearest train photo alone.
        names: Landmark id of each code.
        kept: The predictions that the submission contains.

    Returns:
        `gap` and `top_1` of the submission; the numbers of queries, of those with a landmark
        (`positives`) and of predictions; `nearest`: GAP and top-1 of the nearest train photo's
        landmark; if predictions are left out: `precision`, `recall`, and `all_predictions`.
    """
    assert recognition.truth is not None
    truth = recognition.truth
    of_kept = gap_and_top_1(kept.ids, kept.landmarks, submitted_scores(kept), truth)
    nearest = gap_and_top_1(
        kept.ids, named(predictions.nearest, names), predictions.nearest_cosines, truth
    )
    metrics: dict[str, Any] = {
        **of_kept,
        "queries": len(truth),
        "positives": recognition.positives,
        "predictions": int(kept.is_predicted.sum()),
        "nearest": nearest,
    }
    if kept is not recognition:
        right = int(kept.is_correct.sum())
        metrics["precision"] = right / max(1, metrics["predictions"])
        metrics["recall"] = right / max(1, recognition.positives)
        everything = submitted_scores(recognition)
        metrics["all_predictions"] = gap_and_top_1(
            kept.ids, recognition.landmarks, everything, truth
        )
    return metrics


def submitted_scores(recognition: Recognition) -> NDArray[np.float64]:
    """Return the confidences, or without a calibration the scores, (Q,)."""
    is_calibrated = recognition.confidences is not None
    return recognition.confidences if is_calibrated else recognition.scores  # type: ignore


def named(codes: NDArray[np.integer], names: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the landmark id of each code, "" for -1.

    Example:
        >>> named(np.array([1, -1]), np.array(["arch", "bay"])).tolist()
        ['bay', '']
    """
    return np.where(codes >= 0, names[np.maximum(codes, 0)], "")


def above(recognition: Recognition, threshold: float) -> Recognition:
    """Leave out the predictions whose score is below the threshold.

    Example:
        >>> made = Recognition(np.array(["a", "b"]), np.array(["x", "y"]), np.array([2.0, 1.0]))
        >>> above(made, 1.5).landmarks.tolist()
        ['x', '']
    """
    is_kept = recognition.scores >= threshold
    confidences = recognition.confidences
    return replace(
        recognition,
        landmarks=np.where(is_kept, recognition.landmarks, ""),
        confidences=None if confidences is None else np.where(is_kept, confidences, 0.0),
    )

"""Affine map, homography and fundamental matrix by OpenCV's USAC."""

from typing import Any, Literal

import numpy as np

RansacModel = Literal["affine", "homography", "fundamental"]
Estimator = Literal["magsac", "ransac"]
# Pixels: the thresholds that separate photos of one landmark from others best.
THRESHOLDS = {"affine": 20.0, "homography": 5.0, "fundamental": 6.0}
# The most precise homography: shares of the threshold at which it is sampled and refined,
# refinements, and share of the inliers that it must keep.
_SAMPLED, _PRECISE, _REFINED, _KEPT = 0.2, 0.3, 5, 0.75
_ATTEMPTS = 5  # seeds tried where OpenCV fails
_FEWEST = {"affine": 3, "homography": 4, "fundamental": 8}


def fit_ransac(
    a: np.ndarray,
    b: np.ndarray,
    model: RansacModel,
    threshold: float,
    max_iterations: int = 1000,
    confidence: float = 0.999,
    seed: int = 0,
    estimator: Estimator = "magsac",
) -> tuple[np.ndarray | None, np.ndarray]:
    """Fit a model by random sampling.

    Args:
        a: (m, 2) positions of the matches in the first photo.
        b: (m, 2) positions in the second photo.
        model: What is fitted.
        threshold: Largest error of an inlier in pixels.
        max_iterations: Most samples drawn.
        confidence: Probability with which one sample without outliers has been drawn, at which
            sampling stops.
        seed: Of the samples: equal seeds give equal results.
        estimator: `magsac`: MAGSAC++ scores with local optimisation; of two planes, the homography
            of the more precise one. `ransac`: the model with the most inliers.

    Returns:
        (3, 3) float64 model, which maps points of `a` onto `b` (fundamental: b^T F a = 0), or None
        if the matches fix none; (m,) bool, the inliers.

    Source:
        Fischler, Bolles: Random Sample Consensus. CACM 1981. Barath et al.: MAGSAC++, a fast,
        reliable and accurate robust estimator. CVPR 2020.
    """
    nothing = np.zeros(len(a), bool)
    if _distinct(a) < _FEWEST[model] or _distinct(b) < _FEWEST[model]:
        return None, nothing
    a, b = a.astype(np.float64), b.astype(np.float64)
    options = model, max_iterations, confidence, seed
    matrix, is_inlier = _sample(a, b, estimator, threshold, *options)
    if matrix is None:
        return None, nothing
    if model == "homography" and estimator == "magsac":
        matrix, is_inlier = _most_precise(a, b, matrix, is_inlier, threshold, *options)
    return matrix, is_inlier


def _sample(
    a: np.ndarray,
    b: np.ndarray,
    estimator: str,
    threshold: float,
    model: RansacModel,
    max_iterations: int,
    confidence: float,
    seed: int,
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the model, which may be None, and the mask of its inliers."""
    import cv2

    params = cv2.UsacParams()
    params.threshold = threshold
    params.maxIterations = max_iterations
    params.confidence = confidence
    params.isParallel = False
    params.sampler = cv2.SAMPLING_UNIFORM
    params.score, params.loMethod = {
        "magsac": (cv2.SCORE_METHOD_MAGSAC, cv2.LOCAL_OPTIM_SIGMA),
        "msac": (cv2.SCORE_METHOD_MSAC, cv2.LOCAL_OPTIM_INNER_LO),
        "ransac": (cv2.SCORE_METHOD_RANSAC, cv2.LOCAL_OPTIM_NULL),
    }[estimator]
    if estimator != "ransac":
        params.loIterations, params.loSampleSize = 10, 30
    estimate: Any = {
        "affine": cv2.estimateAffine2D,
        "homography": cv2.findHomography,
        "fundamental": cv2.findFundamentalMat,
    }[model]
    for attempt in range(_ATTEMPTS):
        params.randomGeneratorState = (seed + attempt) % 2**31
        try:
            matrix, mask = estimate(a, b, params=params)
            break
        except cv2.error:  # an assertion, on a degenerate sample such as nearly collinear points
            matrix = mask = None
    if matrix is None or mask is None or not np.isfinite(matrix).all():
        return None, np.zeros(len(a), bool)
    if model == "affine":
        matrix = np.concatenate([matrix, [[0.0, 0.0, 1.0]]])
    return matrix.astype(np.float64), mask.ravel().astype(bool)


def _most_precise(
    a: np.ndarray,
    b: np.ndarray,
    matrix: np.ndarray,
    is_inlier: np.ndarray,
    threshold: float,
    *options: Any,  # noqa: ANN401
) -> tuple[np.ndarray, np.ndarray]:
    """Replace a homography between two planes by that of one plane.

    A compromise between planes explains more matches, but none well. The homography that is sampled
    with 0.2 times the threshold and refined with 0.3 times the threshold replaces it if it explains
    more matches within the latter, and at least three quarters of its inliers.
    """
    import cv2

    precise, _ = _sample(a, b, "msac", _SAMPLED * threshold, *options)
    for _ in range(_REFINED):
        if precise is None:
            return matrix, is_inlier
        close = _errors(precise, a, b) <= _PRECISE * threshold
        if np.count_nonzero(close) < _FEWEST["homography"]:
            return matrix, is_inlier
        precise = cv2.findHomography(a[close], b[close], 0)[0]
    if precise is None:
        return matrix, is_inlier
    errors, before = _errors(precise, a, b), _errors(matrix, a, b)
    explained = errors <= threshold
    more = _count(errors, _PRECISE * threshold) > _count(before, _PRECISE * threshold)
    if more and np.count_nonzero(explained) >= _KEPT * np.count_nonzero(is_inlier):
        return precise, explained
    return matrix, is_inlier


def _count(errors: np.ndarray, threshold: float) -> int:
    return int(np.count_nonzero(errors <= threshold))


def _errors(matrix: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the errors of a homography in the second photo; inf beyond the horizon."""
    mapped = np.concatenate([a, np.ones((len(a), 1))], axis=1) @ matrix.T
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - b, axis=1)
    return np.where(mapped[:, 2] * matrix[2, 2] > 0, errors, np.inf)


def _distinct(points: np.ndarray) -> int:
    return len(np.unique(points, axis=0))

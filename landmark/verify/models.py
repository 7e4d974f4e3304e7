"""Affine map, homography and fundamental matrix by OpenCV's USAC with MAGSAC++ scores."""

from typing import Any, Literal

import numpy as np

RansacModel = Literal["affine", "homography", "fundamental"]
# Pixels: the thresholds that separate photos of one landmark from others best.
THRESHOLDS = {"affine": 20.0, "homography": 5.0, "fundamental": 6.0}
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

    Returns:
        (3, 3) float64 model, which maps points of `a` onto `b` (fundamental: b^T F a = 0), or None
        if the matches fix none; (m,) bool, the inliers.

    Source:
        Barath et al.: MAGSAC++, a fast, reliable and accurate robust estimator. CVPR 2020.
    """
    nothing = np.zeros(len(a), bool)
    if _distinct(a) < _FEWEST[model] or _distinct(b) < _FEWEST[model]:
        return None, nothing
    import cv2

    params = cv2.UsacParams()
    params.threshold = threshold
    params.maxIterations = max_iterations
    params.confidence = confidence
    params.isParallel = False
    params.sampler = cv2.SAMPLING_UNIFORM
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    params.loIterations, params.loSampleSize = 10, 30
    estimate: Any = {
        "affine": cv2.estimateAffine2D,
        "homography": cv2.findHomography,
        "fundamental": cv2.findFundamentalMat,
    }[model]
    points = a.astype(np.float64), b.astype(np.float64)
    for attempt in range(_ATTEMPTS):
        params.randomGeneratorState = (seed + attempt) % 2**31
        try:
            matrix, mask = estimate(*points, params=params)
            break
        except cv2.error:  # an assertion, on a degenerate sample such as nearly collinear points
            matrix = mask = None
    if matrix is None or mask is None or not np.isfinite(matrix).all():
        return None, nothing
    if model == "affine":
        matrix = np.concatenate([matrix, [[0.0, 0.0, 1.0]]])
    return matrix.astype(np.float64), mask.ravel().astype(bool)


def _distinct(points: np.ndarray) -> int:
    return len(np.unique(points, axis=0))

"""Similarities from single matches, scored a contrario."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_FLOOR = 2.0  # pixels: no keypoint is located better across photos
_CAP = 40.0  # pixels: larger errors are no evidence
_REFINED = 3
_RADII = (_FLOOR, 4.0, 8.0, 16.0, _CAP)


class Fit(NamedTuple):
    """The best model and its evidence.

    Attributes:
        score: -log of the expected number of models that are as good by chance.
        is_inlier: (m,) bool, of the matches that count as evidence.
        model: (2, 3) float64, maps points of the first photo onto the second.
    """

    score: float
    is_inlier: np.ndarray
    model: np.ndarray


def fit_similarity(
    a: np.ndarray,
    b: np.ndarray,
    scales: np.ndarray,
    rotations: np.ndarray,
    area: float,
    max_rotation: float = 30.0,
    max_scale: float = 6.0,
    evidence: np.ndarray | None = None,
) -> Fit | None:
    """Fit an upright similarity, given by a single match with its scales and angles.

    Each match whose rotation and scale are within the limits is a hypothesis. All are scored; the
    best three are refined to affine maps by least squares over their inliers, and a refined map
    replaces its similarity if it scores higher. An error is the larger one of the two photos, so
    that no map that shrinks a photo to a point fits. No random numbers are used, and exchanging the
    photos gives the same score.

    Args:
        a: (m, 2) positions of the matches in the first photo.
        b: (m, 2) positions in the second photo.
        scales: (m,) scale of the feature in the second photo over that in the first.
        rotations: (m,) difference of the angles in degrees, second minus first.
        area: Of the smaller photo, in pixels.
        max_rotation: Largest rotation of a hypothesis in degrees, either way.
        max_scale: Largest scale of a hypothesis, either way.
        evidence: Rows of the matches that are counted; the others give hypotheses alone. None
            means all.

    Returns:
        The best fit; None with fewer than two matches, without a match within the limits, or if no
        hypothesis has a second match within 40 pixels.

    Source:
        One-match hypotheses: Philbin et al.: Object Retrieval with Large Vocabularies and Fast
        Spatial Matching. CVPR 2007. Score: see `a_contrario`.
    """
    turns = (rotations.astype(np.float64) + 180) % 360 - 180
    with np.errstate(divide="ignore", invalid="ignore"):
        log_scales = np.abs(np.log(scales.astype(np.float64)))
    # Scales are float32: their ratio at the limit may exceed it by a rounding error.
    admissible = (np.abs(turns) <= max_rotation) & (log_scales <= np.log(max_scale) + 1e-6)
    evidence = np.arange(len(a)) if evidence is None else evidence
    if len(evidence) < 2 or not admissible.any():
        return None
    origin = a.mean(axis=0, dtype=np.float64), b.mean(axis=0, dtype=np.float64)
    a, b = a - origin[0], b - origin[1]  # float32 is exact enough near the origin
    models = one_match_models(
        a[admissible], b[admissible], scales[admissible], np.deg2rad(turns[admissible])
    )
    a, b = a[evidence], b[evidence]
    errors = _similarity_errors(models, a, b)
    rows = promising(errors, area, len(models), _REFINED)
    scores, radii = a_contrario(errors[rows], area, len(models))
    best = None
    for i in np.argsort(-scores, kind="stable")[:_REFINED]:
        if scores[i] == -np.inf:
            break
        fit = Fit(float(scores[i]), errors[rows[i]] <= radii[i], models[rows[i]])
        for affine in _refined(fit.is_inlier, a, b, max_scale):
            of_affine = _affine_errors(affine, a, b)
            score, radius = a_contrario(of_affine[None], area, len(models), sample=3)
            if score[0] > fit.score:
                fit = Fit(float(score[0]), of_affine <= radius[0], affine)
        if best is None or fit.score > best.score:
            best = fit
    if best is None:
        return None
    best.model[:, 2] += origin[1] - best.model[:, :2] @ origin[0]
    return best


def a_contrario(
    squared_errors: np.ndarray, area: float, hypotheses: int, sample: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Score models by how unlikely their errors are if the matches were random.

    The score is the maximum over k > sample of -log(hypotheses * C(n, k) * (pi e_k^2 / area)^(k -
    sample)), e_k the k-th smallest error, raised to 2 pixels; errors above 40 pixels do not count.
    There is no inlier threshold.

    Args:
        squared_errors: (h, n) squared error of each match under each model, in pixels.
        area: Of the photo in which the errors are measured, in pixels.
        hypotheses: Number of models tried.
        sample: Matches that fix a model: their errors are no evidence.

    Returns:
        (h,) scores, -inf where no more errors than `sample` are within 40 pixels, and (h,) squared
        error of the last inlier, at least that of 2 pixels.

    Source:
        Moisan, Stival: A Probabilistic Criterion to Detect Rigid Point Matches Between Two Images
        and Estimate the Fundamental Matrix. IJCV 2004.

    Example:
        >>> errors = np.array([[0, 1, 4, 900.0]])
        >>> scores, squared_radii = a_contrario(errors, area=10_000, hypotheses=4)
        >>> scores.round(2).tolist(), squared_radii.tolist()
        ([10.59], [4.0])
    """
    models, n = squared_errors.shape
    most = int((squared_errors <= _CAP**2).sum(axis=1).max(initial=0))
    if most <= sample:
        return np.full(models, -np.inf), np.zeros(models)
    smallest = np.partition(squared_errors, most - 1, axis=1)[:, :most]
    smallest.sort(axis=1)
    errors = smallest[:, sample:]
    k = np.arange(sample + 1, most + 1)
    scores = _evidence(k, np.maximum(errors, _FLOOR**2), n, area, hypotheses, sample)
    scores[errors > _CAP**2] = -np.inf
    best = scores.argmax(axis=1)[:, None]
    return (
        np.take_along_axis(scores, best, axis=1)[:, 0],
        np.maximum(np.take_along_axis(errors, best, axis=1)[:, 0], _FLOOR**2),
    )


def promising(squared_errors: np.ndarray, area: float, hypotheses: int, best: int) -> np.ndarray:
    """Find the models that can be among the best by their a-contrario score, without sorting.

    Counts of the errors within a few radii bound the score: for k between two counts, e_k is
    between the radii, and the score is convex in k for equal errors, so it is largest at the ends.

    Args:
        squared_errors: (h, n) squared error of each match under each model, in pixels.
        area: See `a_contrario`.
        hypotheses: See `a_contrario`.
        best: Number of models that are looked for.

    Returns:
        Rows, ascending, that include `best` models of the highest scores.
    """
    models, n = squared_errors.shape
    if models <= best:
        return np.arange(models)
    lower = np.full(models, -np.inf)
    upper = np.full(models, -np.inf)
    inner, fewer = _FLOOR**2, np.ones(models, np.int64)
    for radius in _RADII:
        counts = np.count_nonzero(squared_errors <= radius**2, axis=1)
        # Errors within the inner radius were counted; k is from fewer + 1 to counts.
        more = counts > fewer
        few, many = fewer[more], counts[more]
        lower[more] = np.maximum(lower[more], _evidence(many, radius**2, n, area, hypotheses))
        for k in (few + 1, many):
            upper[more] = np.maximum(upper[more], _evidence(k, inner, n, area, hypotheses))
        inner, fewer = radius**2, np.maximum(fewer, counts)
    leaders = np.argsort(-lower, kind="stable")[:best]
    candidates = upper > lower[leaders[-1]]
    candidates[leaders] = True
    return np.flatnonzero(candidates)


def _evidence(
    k: np.ndarray,
    squared_error: np.ndarray | float,
    n: int,
    area: float,
    hypotheses: int,
    sample: int = 1,
) -> np.ndarray:
    """Return -log(hypotheses * C(n, k) * (pi e^2 / area)^(k - sample))."""
    of_factorials = _log_factorials(max(1024, 1 << n.bit_length()))
    log_choose = of_factorials[n] - of_factorials[k] - of_factorials[n - k]
    chance = np.log(squared_error) + np.log(np.pi / area)
    return -(np.log(hypotheses) + log_choose) - (k - sample) * chance


@lru_cache(maxsize=8)
def _log_factorials(count: int) -> np.ndarray:
    """Return log(0!), log(1!), …: a table is faster than scipy's gammaln."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count)))])


def one_match_models(
    a: np.ndarray, b: np.ndarray, scales: np.ndarray, turns: np.ndarray
) -> np.ndarray:
    """Return the similarity of each match, (h, 2, 3); `turns` in radians."""
    cos, sin = scales * np.cos(turns), scales * np.sin(turns)
    models = np.empty((len(a), 2, 3))
    models[:, 0, 0], models[:, 0, 1] = cos, -sin
    models[:, 1, 0], models[:, 1, 1] = sin, cos
    models[:, :, 2] = b - np.einsum("hij,hj->hi", models[:, :, :2], a)
    return models


def _similarity_errors(models: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the larger squared error of each match in the two photos, (h, n) float32."""
    points = _homogeneous(a).T.astype(np.float32)
    x, y = (models[:, i].astype(np.float32) @ points for i in (0, 1))
    x -= b[:, 0].astype(np.float32)
    y -= b[:, 1].astype(np.float32)
    x *= x
    y *= y
    x += y
    squared_scales = models[:, 0, 0] ** 2 + models[:, 1, 0] ** 2
    x *= np.maximum(1, 1 / squared_scales).astype(np.float32)[:, None]
    return x


def _affine_errors(affine: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the larger squared error of each match in the two photos, (n,) float64."""
    forward = _homogeneous(a) @ affine.T - b
    backward = forward @ np.linalg.inv(affine[:, :2]).T
    return np.maximum((forward**2).sum(axis=1), (backward**2).sum(axis=1))


def _refined(
    is_inlier: np.ndarray, a: np.ndarray, b: np.ndarray, max_scale: float
) -> Iterator[np.ndarray]:
    """Yield the affine least-squares fits over the inliers, in either photo, (2, 3) each."""
    for source, target in ((a, b), (b, a)):
        points = _homogeneous(source[is_inlier])
        solution, _, rank, _ = np.linalg.lstsq(points, target[is_inlier], rcond=1e-6)
        linear, shift = solution[:2].T, solution[2]
        # Collinear inliers fix no affine map.
        if rank < 3 or not _keeps_shape(linear, max_scale):
            continue
        if source is b:
            linear = np.linalg.inv(linear)
            shift = -linear @ shift
        yield np.concatenate([linear, shift[:, None]], axis=1)


def _keeps_shape(linear: np.ndarray, max_scale: float) -> bool:
    """Whether the map mirrors nothing and scales every direction within the limit."""
    stretch = np.linalg.svd(linear, compute_uv=False)
    return bool(
        np.linalg.det(linear) > 0 and stretch[0] <= max_scale and stretch[1] >= 1 / max_scale
    )


def _homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)

"""Verify two photos: match their local features, fit a geometric model, score it."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from landmark.error import UserError
from landmark.settings import checked
from landmark.verify.bars import in_bars
from landmark.verify.features import Features
from landmark.verify.matching import match
from landmark.verify.models import THRESHOLDS, Estimator, RansacModel, fit_ransac
from landmark.verify.positions import count_positions, equal_positions
from landmark.verify.similarity import Fit, fit_similarity
from landmark.verify.threshold import FalseRate


@dataclass(frozen=True, eq=False)
class Verification:
    """The evidence that two photos show the same place.

    Attributes:
        score: Higher means more surely the same. `similarity`: -log of the expected number of
            models that are as good by chance (about 0 or below: no evidence; 0 without a model).
            Other models: the number of inliers.
        inliers: Positions that the model explains: of keypoints with several orientations each
            counts once.
        matches: (m, 2) int64 rows of the features of both photos.
        is_inlier: (m,) bool.
        model: (3, 3) float64, maps points of the first photo onto the second (fundamental:
            b^T F a = 0); None if the matches fix none.
    """

    score: float
    inliers: int
    matches: np.ndarray
    is_inlier: np.ndarray
    model: np.ndarray | None


class Verifier:
    """Verify two photos by their local features.

    Equal inputs give equal results. Exchanging the photos gives the same matches if they are
    mutual and then, with `similarity`, the same score; the other models measure errors in the
    second photo and may give other scores.

    Args:
        model: `similarity`: given by one match with its scales and angles, the best by its
            a-contrario score, for features with scales and angles (see `fit_similarity`).
            `affine`, `homography` and `fundamental`: by random sampling (see `fit_ransac`).
        features: Name of the local features in the store, for the commands.
        false_rate: Share of the pairs of different places that may pass, for the commands.
        mutual: Match only features that are each other's nearest neighbour. False means the
            nearest in the second photo of each feature of the first.
        ratio: Largest ratio of a match's distance to that of the rival, on both sides. None means
            no ratio test.
        radius: Largest distance of a match between descriptors of unit length. None means no
            limit.
        rival: Of the ratio test: the second nearest neighbour in the other photo, or the nearest
            in the pool of other photos (the features' `background`).
        ignore_bottom: Share of the photos' height, from the lower edge, whose features are
            ignored.
        ignore_bars: Ignore the matches of watermark bars: the bars of stock agencies match between
            photos of any places. They are found pair by pair (see `in_bars`).
        distinct: Count matches of equal positions in both photos once: one keypoint may have
            several features, of different orientations.
        max_rotation: `similarity`: largest rotation in degrees.
        max_scale: `similarity`: largest scale, either way.
        threshold: Other models: largest error of an inlier in pixels. Defaults to 20 for `affine`,
            5 for `homography`, 6 for `fundamental`.
        estimator: Other models: `magsac` or `ransac`, which maximises the number of inliers.
        max_iterations: Other models: most samples drawn.
        confidence: Other models: probability of a sample without outliers, at which sampling stops.
        seed: Other models: of the samples.

    Example:
        >>> from types import SimpleNamespace
        >>> rng = np.random.default_rng(0)
        >>> a = SimpleNamespace(
        ...     keypoints=rng.uniform(0, 100, (9, 2)), descriptors=rng.normal(size=(9, 64)),
        ...     size=(200, 200), scales=np.ones(9), angles=np.zeros(9), background=None)
        >>> b = SimpleNamespace(**{**vars(a), "keypoints": a.keypoints + 50})
        >>> result = Verifier()(a, b)
        >>> result.inliers, result.model[:2, 2].round(3).tolist()
        (9, [50.0, 50.0])
    """

    @checked
    def __init__(
        self,
        model: Literal["similarity", "affine", "homography", "fundamental"] = "similarity",
        ratio: Annotated[float, Field(gt=0, le=1)] | None = 0.95,
        radius: Annotated[float, Field(gt=0, le=2)] | None = None,
        rival: Literal["second", "background"] = "second",
        ignore_bottom: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        max_rotation: Annotated[float, Field(ge=0, le=180)] = 30.0,
        max_scale: Annotated[float, Field(ge=1)] = 6.0,
        threshold: PositiveFloat | None = None,
        max_iterations: PositiveInt = 1000,
        confidence: Annotated[float, Field(gt=0, lt=1)] = 0.999,
        seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0,
        estimator: Estimator = "magsac",
        mutual: bool = True,
        ignore_bars: bool = True,
        distinct: bool = True,
        features: str = "rootsift",
        false_rate: FalseRate = 0.01,
    ) -> None:
        if model == "similarity" and threshold is not None:
            raise UserError(
                f"threshold={threshold} does not apply to model=similarity, whose score needs "
                f"none. Pass model={', '.join(get_args(RansacModel))} or no threshold."
            )
        if rival == "background" and ratio is None:
            raise UserError("rival=background needs a ratio test. Pass ratio=1.0, or rival=second.")
        self.model = model
        self.features = features
        self.false_rate = false_rate
        self.mutual = mutual
        self.ignore_bars = ignore_bars
        self.distinct = distinct
        self.ratio = ratio
        self.radius = radius
        self.rival = rival
        self.ignore_bottom = ignore_bottom
        self.max_rotation = max_rotation
        self.max_scale = max_scale
        self.threshold = threshold
        self.estimator = estimator
        self.max_iterations = max_iterations
        self.confidence = confidence
        self.seed = seed

    @property
    def symmetric(self) -> bool:
        """Whether exchanging the photos gives the same score, up to rounding."""
        return self.model == "similarity" and self.mutual

    def __call__(self, a: Features, b: Features) -> Verification:
        """Verify photo `a` against photo `b`.

        Raises:
            UserError: The features lack what the settings need: scales and angles, or background.
        """
        matches = self._match(a, b)
        result = self._fit(a, b, matches)
        while self.ignore_bars:
            points = a.keypoints[matches[:, 0]], b.keypoints[matches[:, 1]]
            of_bars = in_bars(*points, a.size, b.size, result.is_inlier)
            if not of_bars.any():
                break
            matches = matches[~of_bars]
            result = self._fit(a, b, matches)
        return result

    def _fit(self, a: Features, b: Features, matches: np.ndarray) -> Verification:
        points = a.keypoints[matches[:, 0]], b.keypoints[matches[:, 1]]
        first, groups = (
            equal_positions(*points) if self.distinct else (np.arange(len(matches)),) * 2
        )
        if self.model == "similarity":
            fit = self._fit_similarity(a, b, matches, first)
            if fit is None:
                return Verification(0.0, 0, matches, np.zeros(len(matches), bool), None)
            score, is_inlier = fit.score, fit.is_inlier
            model: np.ndarray | None = np.concatenate([fit.model, [[0.0, 0.0, 1.0]]])
        else:
            model, is_inlier = fit_ransac(
                points[0][first],
                points[1][first],
                self.model,
                self.threshold or THRESHOLDS[self.model],
                self.max_iterations,
                self.confidence,
                self.seed,
                self.estimator,
            )
        inliers = int(is_inlier.sum())
        if self.distinct:
            inliers = count_positions(*(x[first][is_inlier] for x in points))
        if self.model != "similarity":
            score = float(inliers)
        return Verification(score, inliers, matches, is_inlier[groups], model)

    def _fit_similarity(
        self, a: Features, b: Features, matches: np.ndarray, evidence: np.ndarray
    ) -> Fit | None:
        if a.scales is None or a.angles is None or b.scales is None or b.angles is None:
            raise UserError(
                "the local features have no scales and angles, which model=similarity needs. "
                f"Pass model={', '.join(get_args(RansacModel))}, or other local features."
            )
        in_a, in_b = matches.T
        with np.errstate(divide="ignore", invalid="ignore"):  # a scale of 0 gives no hypothesis
            scales = b.scales[in_b] / a.scales[in_a]
        return fit_similarity(
            a.keypoints[in_a],
            b.keypoints[in_b],
            scales,
            b.angles[in_b] - a.angles[in_a],
            float(min(a.size[0] * a.size[1], b.size[0] * b.size[1])),
            self.max_rotation,
            self.max_scale,
            evidence,
        )

    def _match(self, a: Features, b: Features) -> np.ndarray:
        rows_a, rows_b = self._rows(a), self._rows(b)
        background = None
        if self.rival == "background":
            if a.background is None or b.background is None:
                raise UserError(
                    "the local features have no background, which rival=background needs. "
                    "Pass local features described with a pool, or rival=second."
                )
            background = a.background[rows_a], b.background[rows_b]
        pairs = match(
            a.descriptors[rows_a],
            b.descriptors[rows_b],
            self.ratio,
            self.radius,
            background,
            mutual=self.mutual,
        )
        return np.stack([rows_a[pairs[:, 0]], rows_b[pairs[:, 1]]], axis=1)

    def _rows(self, features: Features) -> np.ndarray:
        """Return the rows of the features above the ignored bottom."""
        if not self.ignore_bottom:
            return np.arange(len(features.keypoints))
        lowest = (1 - self.ignore_bottom) * features.size[1]
        return np.flatnonzero(features.keypoints[:, 1] < lowest)

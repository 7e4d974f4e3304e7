"""Verify two photos by what their patches share beyond the background."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from landmark.error import UserError
from landmark.settings import checked
from landmark.verify.features import Features
from landmark.verify.matching import unit_rows
from landmark.verify.transport import transport
from landmark.verify.verifier import Verification


class PatchVerifier:
    """Verify two photos by their patches, without geometry.

    The margin of a pair of patches is its cosine minus the larger one of the two patches' best
    cosines with a pool of other photos (`background`): what is common to all photos, such as sky,
    people and watermarks, has no margin. Matches are the pairs that are each other's largest
    margin, inliers those of them with a positive margin, and there is no model.

    Args:
        score: `margins`: the sum of the inliers' margins. `transport`: the sum of the row and
            column maxima of the mass that `transport` moves between the patches, given their
            margins: about twice the number of patches that both photos show. It costs more and
            separates pairs about as well.
        ignore_bottom: Share of the photos' height, from the lower edge, whose patches are ignored.
        temperature: `transport`: factor of the margins in the exponent.
        iterations: `transport`: number of row and column steps.
        features: Name of the local features in the store, for the commands.
        false_rate: Share of the pairs of different places that may pass, for the commands.

    Example:
        >>> from types import SimpleNamespace
        >>> patches = SimpleNamespace(
        ...     keypoints=np.zeros((3, 2)), descriptors=np.eye(3, 8, dtype=np.float16),
        ...     size=(96, 32), background=np.array([0.2, 0.3, 1.0], np.float32))
        >>> result = PatchVerifier()(patches, patches)
        >>> result.inliers, result.matches.tolist()
        (2, [[0, 0], [1, 1], [2, 2]])
    """

    @checked
    def __init__(
        self,
        score: Literal["margins", "transport"] = "margins",
        ignore_bottom: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        temperature: Annotated[float, Field(gt=0, le=40)] = 40.0,
        iterations: PositiveInt = 10,
        features: str = "patches",
        false_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01,
    ) -> None:
        self.score = score
        self.ignore_bottom = ignore_bottom
        self.temperature = temperature
        self.iterations = iterations
        self.features = features
        self.false_rate = false_rate

    @property
    def symmetric(self) -> bool:
        """Whether exchanging the photos gives the same score, up to rounding."""
        return self.score == "margins"

    def __call__(self, a: Features, b: Features) -> Verification:
        """Verify photo `a` against photo `b`.

        Raises:
            UserError: The features have no background, or differ in dimension.
        """
        rows_a, rows_b = self._rows(a), self._rows(b)
        if not len(rows_a) or not len(rows_b):
            return Verification(0.0, 0, np.empty((0, 2), np.int64), np.empty(0, bool), None)
        margins = _margins(a, b, rows_a, rows_b)
        pairs = _mutual_maxima(margins)
        of_pairs = margins[pairs[:, 0], pairs[:, 1]]
        is_inlier = of_pairs > 0
        if self.score == "margins":
            score = float(of_pairs[is_inlier].sum())
        else:
            score = self._transported(margins)
        matches = np.stack([rows_a[pairs[:, 0]], rows_b[pairs[:, 1]]], axis=1)
        return Verification(score, int(is_inlier.sum()), matches, is_inlier, None)

    def _transported(self, margins: NDArray[np.float32]) -> float:
        mass = transport(margins, 0.0, self.temperature, self.iterations)
        return float(mass.max(axis=0).sum() + mass.max(axis=1).sum())

    def _rows(self, features: Features) -> NDArray[np.int64]:
        """Return the rows of the patches above the ignored bottom."""
        lowest = (1 - self.ignore_bottom) * features.size[1]
        return np.flatnonzero(features.keypoints[:, 1] < lowest)


def _margins(
    a: Features, b: Features, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return cosine minus background of each pair of patches, (n, m)."""
    if a.background is None or b.background is None:
        raise UserError(
            "the local features have no background, which verify=patches needs. Extract them with "
            "background=own or background=STORE."
        )
    if a.descriptors.shape[1] != b.descriptors.shape[1]:
        raise UserError(
            f"descriptors of {a.descriptors.shape[1]} and {b.descriptors.shape[1]} dimensions "
            "cannot be matched. Pass local features of one kind."
        )
    margins = unit_rows(a.descriptors[rows_a]) @ unit_rows(b.descriptors[rows_b]).T
    margins -= np.maximum(a.background[rows_a, None], b.background[rows_b])
    return margins


def _mutual_maxima(margins: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the pairs that are the maximum of their row and column, (k, 2)."""
    column, row = margins.argmax(axis=1), margins.argmax(axis=0)
    rows = np.arange(len(column))
    mutual = np.flatnonzero(row[column] == rows)
    return np.stack([mutual, column[mutual]], axis=1)

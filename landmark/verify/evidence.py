"""Combine scores of several kinds, each measured by its spread over pairs of different places."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.error import UserError

Scores = Mapping[str, NDArray[np.floating]]
# Of the cosine of the global descriptors, `PatchVerifier` and `log_score` of RootSIFT's `Verifier`.
WEIGHTS = {"cosine": 1.0, "patches": 1.0, "rootsift": 0.5}


class Evidence:
    """The weighted sum of scores, each centred and divided by its spread over null pairs.

    Null pairs are pairs of the user's own photos that show different places and look alike: photos
    and their nearest of another landmark. Random pairs have hardly a patch in common, and a spread
    that is too small. A sum of 0 is that of an average null pair, whatever the scores' units.

    Args:
        centres: Name of each score to its mean over null pairs.
        spreads: Name of each score to its standard deviation over null pairs.
        weights: Name of each score to its weight. Defaults to 1 for each.

    Raises:
        UserError: A spread is not positive, or the names differ.

    Example:
        >>> null = {"cosine": np.array([0.4, 0.6]), "patches": np.array([2.0, 6.0])}
        >>> evidence = Evidence.fit(null)
        >>> evidence({"cosine": np.array([0.7]), "patches": np.array([10.0])}).round(3).tolist()
        [5.0]
    """

    def __init__(
        self,
        centres: Mapping[str, float],
        spreads: Mapping[str, float],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.centres = {name: float(centre) for name, centre in centres.items()}
        self.spreads = {name: float(spread) for name, spread in spreads.items()}
        self.weights = dict.fromkeys(centres, 1.0) if weights is None else dict(weights)
        for names in (self.spreads, self.weights):
            _check_names(self.centres, names)
        for name, spread in self.spreads.items():
            if not (np.isfinite(spread) and spread > 0):
                raise UserError(
                    f"the score {name!r} has a spread of {spread:g} over pairs of different "
                    "places. Pass more pairs, or leave it out."
                )

    @classmethod
    def fit(cls, null: Scores, weights: Mapping[str, float] | None = None) -> "Evidence":
        """Read centres and spreads from the scores of null pairs, (P,) of each kind."""
        centres = {name: float(np.mean(scores)) for name, scores in null.items()}
        spreads = {name: float(np.std(scores)) for name, scores in null.items()}
        return cls(centres, spreads, weights)

    def __call__(self, scores: Scores) -> NDArray[np.float64]:
        """Combine the scores of pairs, (P,) of each kind: (P,), higher is more surely the same."""
        _check_names(self.centres, scores)
        parts = (
            self.weights[name] / self.spreads[name] * (np.asarray(scores[name]) - centre)
            for name, centre in self.centres.items()
        )
        return np.sum(list(parts), axis=0, dtype=np.float64)

    def settings(self) -> dict[str, Any]:
        """Return the arguments of the constructor, JSON-serialisable."""
        return {"centres": self.centres, "spreads": self.spreads, "weights": self.weights}


def log_score(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(1 + score), 0 for negative scores: for scores that grow with the inliers.

    Without it a few pairs of the same repeated structure decide about the spread.

    Example:
        >>> log_score(np.array([-5.0, 0.0, np.e - 1])).tolist()
        [0.0, 0.0, 1.0]
    """
    return np.log1p(np.maximum(np.asarray(scores, np.float64), 0))


def _check_names(expected: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    if missing := expected.keys() ^ names.keys():
        raise UserError(
            f"the score {min(missing)!r} is missing or has no spread. Pass the scores "
            f"{', '.join(expected)}."
        )

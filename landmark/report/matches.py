"""The matches that verification found between a query and a result, drawn as lines."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landmark.rerank.retrieval import LocalOfPhotos
from landmark.rerank.spatial import LocalVerifier
from landmark.verify import Features, Verification

_LINES = 50  # drawn of each verifier
_SIDE = 1000  # of the square in which each photo is shown, in units of the picture


@dataclass(frozen=True)
class Lines:
    """The inlier matches of one verifier.

    Attributes:
        name: Name of the verifier.
        inliers: Number of inliers.
        path: SVG path of at most 50 lines, from the query's square, (0, 0) to (1000, 1000), to the
            photo's square on its right, (1000, 0) to (2000, 1000).
    """

    name: str
    inliers: int
    path: str


class LocalMatches:
    """The matches of queries and gallery photos, verified when they are needed.

    Args:
        verify: Name → verifier.
        query: Name of local features → those of each query.
        gallery: Name of local features → those of each gallery photo.
    """

    def __init__(
        self,
        verify: Mapping[str, LocalVerifier],
        query: LocalOfPhotos,
        gallery: LocalOfPhotos,
    ) -> None:
        self._verify = verify
        self._query = query
        self._gallery = gallery

    def between(self, query: int, row: int) -> list[Lines]:
        """Verify a query and a gallery row; return the lines of each verifier."""
        lines = []
        for name, verifier in self._verify.items():
            a, b = self._query[verifier.features][query], self._gallery[verifier.features][row]
            result = verifier(a, b)
            lines.append(Lines(name, result.inliers, _path(a, b, result)))
        return lines


def _path(a: Features, b: Features, result: Verification) -> str:
    """Return the SVG path of the inliers, evenly chosen if they are too many."""
    inliers = result.matches[result.is_inlier]
    if len(inliers) > _LINES:
        inliers = inliers[np.linspace(0, len(inliers) - 1, _LINES).round().astype(int)]
    starts = _in_square(a, inliers[:, 0])
    ends = _in_square(b, inliers[:, 1]) + np.array([_SIDE, 0])
    lines = np.concatenate([starts, ends], axis=1).tolist()
    return "".join(f"M{x} {y}L{to_x} {to_y}" for x, y, to_x, to_y in lines)


def _in_square(features: Features, rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the keypoints of rows in the square that contains the photo in its centre."""
    size = np.array(features.size)
    margin = (size.max() - size) / 2
    places = (features.keypoints[rows] + 0.5 + margin) * (_SIDE / size.max())
    return places.round().astype(np.int64).clip(0, _SIDE)

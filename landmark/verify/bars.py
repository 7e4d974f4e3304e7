"""Find watermark bars: matches of identical structure at the same place along an edge."""

import numpy as np

_STRIP = 0.15  # of the photo's height or width
_TOLERANCE = 0.01  # of the longer side: difference of the distances to the edge
_FEWEST = 4
_SHARE = 0.8  # of the inliers that lie in the bar


def in_bars(
    a: np.ndarray,
    b: np.ndarray,
    size_a: tuple[int, int],
    size_b: tuple[int, int],
    is_inlier: np.ndarray,
) -> np.ndarray:
    """Find the matches that lie in a bar which explains a model.

    The bars of stock agencies look the same in photos of any places. A model is explained by a bar
    if at least 80 % of its inliers, and at least four, lie along one edge of both photos, in the
    outer 15 % of the height or width, and have the same distance to the edge in both, up to the
    scale of the model and 1 % of the longer side. Photos of which more agrees, such as
    near-duplicates, are explained by no bar.

    Args:
        a: (m, 2) positions of the matches in the first photo.
        b: (m, 2) positions in the second photo.
        size_a: (width, height) of the first photo.
        size_b: (width, height) of the second photo.
        is_inlier: (m,) bool, the matches that the model explains.

    Returns:
        (m,) bool: all matches within the strips of such bars, inliers or not.
    """
    found = np.zeros(len(a), bool)
    inliers = np.flatnonzero(is_inlier)
    fewest = max(_FEWEST, _SHARE * len(inliers))
    for axis in (1, 0):
        for far in (True, False):  # the lower edge before the upper one
            to_edge, to_edge_b = (
                size[axis] - 0.5 - points[:, axis] if far else points[:, axis] + 0.5
                for points, size in ((a, size_a), (b, size_b))
            )
            in_strip = (to_edge < _STRIP * size_a[axis]) & (to_edge_b < _STRIP * size_b[axis])
            of_strip = inliers[in_strip[inliers]]
            if len(of_strip) < fewest:
                continue
            scale = _spread(b[of_strip]) / max(_spread(a[of_strip]), 1e-6)
            difference = np.abs(to_edge_b[of_strip] - scale * to_edge[of_strip])
            agree = difference <= _TOLERANCE * max(*size_b, scale * max(size_a))
            if np.count_nonzero(agree) >= fewest:
                found |= in_strip
    return found


def _spread(points: np.ndarray) -> float:
    return float(np.sqrt(points.var(axis=0, dtype=np.float64).sum()))

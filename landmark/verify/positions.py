"""Matches at equal positions: one keypoint may have several features of different orientations."""

import numpy as np


def equal_positions(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group matches whose positions are equal in both photos.

    Args:
        a: (m, 2) float32 positions of the matches in the first photo.
        b: (m, 2) float32 positions in the second photo.

    Returns:
        (g,) the first match of each group, ascending, and (m,) the group of each match.

    Example:
        >>> a = np.array([[5, 5], [3, 1], [5, 5], [5, 5]], "f4")
        >>> b = np.array([[2, 2], [4, 4], [2, 2], [9, 9]], "f4")
        >>> first, groups = equal_positions(a, b)
        >>> first.tolist(), groups.tolist()
        ([0, 1, 3], [0, 1, 0, 2])
    """
    keys = _keys(a), _keys(b)
    order = np.lexsort(keys)  # stable: the first match of a group comes first
    begins = np.ones(len(order), bool)
    begins[1:] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    first = order[begins]
    by_first = np.argsort(first)
    groups = np.empty(len(order), np.int64)
    groups[order] = np.argsort(by_first)[np.cumsum(begins) - 1]
    return first[by_first], groups


def count_positions(a: np.ndarray, b: np.ndarray) -> int:
    """Return the number of distinct positions of matches, in the photo that has fewer."""
    return min(len(np.unique(_keys(a))), len(np.unique(_keys(b))))


def _keys(points: np.ndarray) -> np.ndarray:
    """Return one number a position: the bits of x and y; (m,) int64."""
    # + 0: -0 and 0 are one position
    return (np.ascontiguousarray(points, np.float32) + 0).view(np.int64).ravel()

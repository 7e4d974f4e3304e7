"""Match the descriptors of two photos: nearest neighbours, without the ambiguous ones."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from landmark.error import UserError

_BLOCK = 2**22  # cosines held at a time
_ROUNDING = 1e-6  # of a float32 cosine: equal descriptors must not win by it
_EXACT_DIM = 2**24 // 255**2  # largest sum of products of uint8 that float32 holds exactly


class MutualNearest(NamedTuple):
    """Mutual nearest neighbours of two sets of descriptors.

    Attributes:
        pairs: (m, 2) rows of `a` and `b`, ascending in `a`; each row occurs once.
        cosines: (m,) cosine of each pair.
        rivals: (m, 2) cosine of the second nearest neighbour of either side; -inf without one.
    """

    pairs: np.ndarray
    cosines: np.ndarray
    rivals: np.ndarray


def match(
    a: np.ndarray,
    b: np.ndarray,
    ratio: float | None = 0.95,
    radius: float | None = None,
    background: tuple[np.ndarray, np.ndarray] | None = None,
    block: int = _BLOCK,
    mutual: bool = True,
) -> np.ndarray:
    """Return the mutual nearest neighbours that pass the ratio test and lie within the radius.

    Distances are Euclidean between descriptors of unit length. A pair passes the ratio test if its
    distance is below `ratio` times that to the rival, on both sides.

    Args:
        a: (n, d) descriptors, of any length.
        b: (m, d) descriptors.
        ratio: Of the ratio test; None for no test.
        radius: Largest distance of a match, at most 2. None means no limit.
        background: (n,) and (m,) best cosine of each descriptor with a pool of other photos: the
            rivals of the ratio test. None means that the second nearest neighbour is the rival.
        block: Cosines held in memory at a time.
        mutual: Return only pairs that are each other's nearest. False returns the nearest of each
            row of `a`; the ratio test then has the rival in `b` alone.

    Returns:
        (matches, 2) int64 rows of `a` and `b`, ascending in `a`.

    Raises:
        UserError: The descriptors differ in length.

    Source:
        Lowe: Distinctive Image Features from Scale-Invariant Keypoints. IJCV 2004, section 7.1.

    Example:
        >>> a = np.array([[1, 0], [0, 1], [3, 4]])
        >>> match(a, np.array([[0, 5], [9, 1]]), ratio=0.8).tolist()
        [[0, 1], [1, 0]]
    """
    if not len(a) or not len(b):
        return np.empty((0, 2), np.int64)
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"descriptors of {a.shape[1]} and {b.shape[1]} dimensions cannot be matched. "
            "Pass local features of one kind."
        )
    find = mutual_nearest if mutual else nearest
    if not (a.dtype == b.dtype == np.uint8):
        a, b = unit_rows(a), unit_rows(b)
    pairs, cosines, rivals = find(a, b, block)
    if background is not None:
        rivals = np.stack([background[0][pairs[:, 0]], background[1][pairs[:, 1]]], axis=1)
    passes = np.ones(len(pairs), bool)
    if ratio is not None:  # squared distance = 2 - 2 cosine
        passes &= (1 - cosines) + _ROUNDING < ratio**2 * (1 - rivals.max(axis=1, initial=-np.inf))
    if radius is not None:
        passes &= 2 - 2 * cosines <= radius**2
    return pairs[passes]


def mutual_nearest(a: np.ndarray, b: np.ndarray, block: int = _BLOCK) -> MutualNearest:
    """Find the rows of `a` and `b` that are each other's nearest neighbour.

    Args:
        a: (n, d) float32 of unit rows, or uint8 of any length; at least one.
        b: (m, d) of the same dtype, at least one.
        block: Cosines held in memory at a time: at least one row of `a` is compared with all of
            `b`.

    Returns:
        The pairs; of equal cosines the lower row is the nearer.
    """
    rows = max(1, block // len(b))
    nearest = np.full(len(b), -1)  # row of a that is nearest to each row of b, if mutual
    best = np.full(len(b), -np.inf, np.float32)
    second = best.copy()
    rivals = np.empty(len(a), np.float32)  # second nearest in b
    for start, cosines in _cosine_blocks(a, b, rows):
        local = np.arange(len(cosines))
        column = cosines.argmax(axis=1)
        row_best = cosines[local, column]
        block_best = cosines.max(axis=0)
        # The first row that is the best of its column: unique() returns first occurrences.
        candidates = np.flatnonzero(row_best == block_best[column])
        columns, first = np.unique(column[candidates], return_index=True)
        candidates = candidates[first]
        # Without each row's best and the mutual pairs, the maxima are those of the rivals. A column
        # whose best is in no mutual pair gets a wrong second best, which nobody reads.
        cosines[local, column] = -np.inf
        rivals[start : start + rows] = cosines.max(axis=1)
        others = np.setdiff1d(local, candidates, assume_unique=True)
        cosines[others, column[others]] = row_best[others]
        block_second = cosines.max(axis=0)
        second = np.maximum(np.maximum(second, block_second), np.minimum(best, block_best))
        wins = block_best > best
        nearest[wins] = -1
        found = wins[columns]
        nearest[columns[found]] = candidates[found] + start
        best = np.maximum(best, block_best)
    in_b = np.flatnonzero(nearest >= 0)
    in_b = in_b[np.argsort(nearest[in_b])]
    in_a = nearest[in_b]
    return MutualNearest(
        np.stack([in_a, in_b], axis=1),
        best[in_b].astype(np.float64),
        np.stack([rivals[in_a], second[in_b]], axis=1).astype(np.float64),
    )


def nearest(a: np.ndarray, b: np.ndarray, block: int = _BLOCK) -> MutualNearest:
    """Find the nearest row of `b` of each row of `a`, as `mutual_nearest`; `b` has no rivals."""
    rows = max(1, block // len(b))
    columns = np.empty(len(a), np.int64)
    best = np.empty((len(a), 2), np.float64)  # cosines of the nearest and the second nearest
    for start, cosines in _cosine_blocks(a, b, rows):
        local = np.arange(len(cosines))
        column = columns[start : start + rows] = cosines.argmax(axis=1)
        best[start : start + rows, 0] = cosines[local, column]
        cosines[local, column] = -np.inf
        best[start : start + rows, 1] = cosines.max(axis=1)
    rivals = np.stack([best[:, 1], np.full(len(a), -np.inf)], axis=1)
    return MutualNearest(np.stack([np.arange(len(a)), columns], axis=1), best[:, 0], rivals)


def _cosine_blocks(a: np.ndarray, b: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row and the cosines with all of `b` of some rows of `a` at a time."""
    whole = a.dtype == np.uint8 and a.shape[1] <= _EXACT_DIM
    if not whole:
        if a.dtype == np.uint8:
            a, b = unit_rows(a), unit_rows(b)
        for start in range(0, len(a), rows):
            yield start, a[start : start + rows] @ b.T
        return
    a, b = a.astype(np.float32), b.astype(np.float32)
    of_a, of_b = _inverse_lengths(a), _inverse_lengths(b)
    for start in range(0, len(a), rows):
        cosines = _whole_products(a[start : start + rows], b)
        cosines *= of_b
        cosines *= of_a[start : start + rows, None]
        yield start, cosines


def _whole_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a b^T of whole numbers from 0 to 255: exact, so the library makes no difference.

    PyTorch uses the bfloat16 products of CPUs that have them, which hold whole numbers up to 256.
    It is not imported for them: that takes as long as a thousand pairs.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return a @ b.T
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return (torch.from_numpy(a) @ torch.from_numpy(b).T).numpy()
    finally:
        torch.set_float32_matmul_precision(before)


def _inverse_lengths(rows: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def unit_rows(descriptors: np.ndarray) -> np.ndarray:
    """Scale each row to length 1, as float32; rows of zeros stay."""
    rows = descriptors.astype(np.float32)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    rows /= np.where(norms > 0, norms, 1)[:, None]
    return rows

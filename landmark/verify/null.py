"""Choose pairs of photos of different places, whose scores set the threshold of verification."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.error import UserError

_BLOCK_ROWS = 1 << 14


def null_pairs(
    vectors: NDArray[np.floating],
    landmark_ids: NDArray[Any],
    pairs: int = 1000,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Choose photos at random and pair each with its nearest photo of another landmark.

    These are the false pairs that nearest neighbours propose, and they look alike: random pairs
    would give a threshold that is too low. Wrong labels and photos that show two landmarks give
    pairs of the same place, which only raise the threshold.

    Time grows with `pairs` times the number of photos; memory with `pairs` times a block of photos.

    Args:
        vectors: (N, D) descriptors, unit rows; may be memory-mapped.
        landmark_ids: (N,) label of each photo.
        pairs: Most pairs. Of stores with fewer photos each photo is paired with several.
        seed: Of the choice.

    Returns:
        (P, 2) rows of the store: a chosen photo and a neighbour. No pair occurs twice, in either
        order. Ordered by the chosen photo.

    Raises:
        UserError: All photos are of one landmark.

    Example:
        >>> vectors = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], "f4")
        >>> null_pairs(vectors, np.array(["a", "a", "b", "b"]), pairs=2).tolist()
        [[0, 2], [2, 1]]
    """
    labels = np.unique(landmark_ids, return_inverse=True)[1]
    if len(labels) == 0 or labels.max() == 0:
        raise UserError(
            "all photos are of one landmark, so there are no pairs of different places. "
            "Pass a store of several landmarks."
        )
    chosen = np.random.default_rng(seed).permutation(len(labels))[:pairs]
    chosen.sort()
    each = min(-(-pairs // len(chosen)), len(labels) - 1)
    cosines, rows = _nearest_of_others(vectors, labels, chosen, each)
    order = np.argsort(-cosines, axis=None, kind="stable")
    order = order[np.isfinite(cosines.ravel()[order])]
    found = np.stack([np.repeat(chosen, each), rows.ravel()], axis=1)[order]
    _, first = np.unique(np.sort(found, axis=1), axis=0, return_index=True)
    found = found[np.sort(first)[:pairs]]
    return found[np.lexsort(found.T[::-1])]


def random_pairs(
    count_a: int, count_b: int | None = None, pairs: int = 1000, seed: int = 0
) -> NDArray[np.int64]:
    """Choose pairs at random: of photos without labels, or of photos and a pool of other photos.

    In a store of many places few of them show the same one.

    Args:
        count_a: Number of photos.
        count_b: Number of photos of the pool. None means pairs within the photos, never of a photo
            with itself.
        pairs: Most pairs; fewer where there are not as many.
        seed: Of the choice.

    Returns:
        (P, 2) rows, ascending. No pair occurs twice; within the photos in neither order.

    Raises:
        UserError: There are no pairs.

    Example:
        >>> random_pairs(3).tolist()
        [[0, 1], [0, 2], [1, 2]]
    """
    within = count_b is None
    total = count_a * (count_a - 1) // 2 if within else count_a * int(count_b or 0)
    if total < 1:
        raise UserError(
            f"{count_a:,} photos{'' if within else f' and a pool of {count_b:,}'} give no pairs. "
            "Pass more photos."
        )
    numbers = _distinct_numbers(total, min(pairs, total), np.random.default_rng(seed))
    if count_b is not None:
        return np.stack(np.divmod(numbers, count_b), axis=1)
    # Pair (i, j), i < j, has the number j (j - 1) / 2 + i.
    second = ((1 + np.sqrt(8.0 * numbers + 1)) / 2).astype(np.int64)
    second -= second * (second - 1) // 2 > numbers  # rounding
    second += (second + 1) * second // 2 <= numbers
    found = np.stack([numbers - second * (second - 1) // 2, second], axis=1)
    return found[np.lexsort(found.T[::-1])]


def _distinct_numbers(total: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if total <= 4 * count:
        return np.sort(rng.permutation(total)[:count]).astype(np.int64)
    numbers = np.empty(0, np.int64)
    while len(numbers) < count:
        more = rng.integers(0, total, count)
        numbers = np.unique(np.concatenate([numbers, more]))
    return np.sort(rng.permutation(numbers)[:count])


def _nearest_of_others(
    vectors: NDArray[np.floating], labels: NDArray[np.intp], chosen: NDArray[np.int64], each: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return cosines and rows, (chosen, each), of the nearest photos of other landmarks."""
    query = np.asarray(vectors[chosen], np.float32)
    best = np.full((len(chosen), each), -np.inf, np.float32)
    rows = np.full((len(chosen), each), -1, np.int64)
    for start in range(0, len(labels), _BLOCK_ROWS):
        block = slice(start, min(start + _BLOCK_ROWS, len(labels)))
        cosines = query @ np.asarray(vectors[block], np.float32).T
        cosines[labels[chosen][:, None] == labels[block]] = -np.inf
        width = min(each, cosines.shape[1])
        if width == 1:  # as for every store of more photos than pairs; much faster
            near = cosines.argmax(axis=1)[:, None]
        else:
            near = np.argpartition(-cosines, width - 1, axis=1)[:, :width]
        both = np.concatenate([best, np.take_along_axis(cosines, near, axis=1)], axis=1)
        both_rows = np.concatenate([rows, near + start], axis=1)
        order = np.lexsort((both_rows, -both), axis=1)[:, :each]
        best = np.take_along_axis(both, order, axis=1)
        rows = np.take_along_axis(both_rows, order, axis=1)
    return best, rows

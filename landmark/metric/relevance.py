"""Mark the relevant results of a ranking, by landmark or by a list for each query."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK_SIZE = 1 << 22  # results per block


def hits_by_label(
    rows: NDArray[np.integer], query_labels: ArrayLike, gallery_labels: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Mark the results that show the query's landmark.

    Args:
        rows: Gallery rows, best first, (Q, K); -1 pads.
        query_labels: Landmark of each query, (Q,) integers or strings.
        gallery_labels: Landmark of each gallery image, (N,) integers or strings.

    Returns:
        hits (Q, K), a repeated row being a hit only at its first position, and the number of
        relevant gallery images of each query (Q,).

    Example:
        >>> hits, relevant = hits_by_label(np.array([[2, 0, 2, -1]]), ["a"], ["a", "b", "a"])
        >>> hits.tolist(), relevant.tolist()
        ([[True, True, False, False]], [2])
    """
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    names, codes = np.unique(np.concatenate([query_labels, gallery_labels]), return_inverse=True)
    query, gallery = codes[: len(query_labels)], codes[len(query_labels) :]
    rows = np.asarray(rows)
    hits = np.zeros(rows.shape, bool)
    for block in query_blocks(rows) if len(gallery) else ():
        ranked = rows[block]
        hits[block] = (gallery[ranked] == query[block, None]) & (ranked >= 0)
    relevant = np.bincount(gallery, minlength=len(names))[query]
    return first_places(rows, hits), relevant


def hits_by_list(
    rows: NDArray[np.integer], relevant: Sequence[ArrayLike]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Mark the results that are in the query's list of relevant gallery rows.

    Args:
        rows: Gallery rows, best first, (Q, K); -1 pads.
        relevant: Relevant gallery rows of each query, Q lists.

    Returns:
        hits (Q, K), a repeated row being a hit only at its first position, and the number of
        distinct rows in each list (Q,).

    Example:
        >>> hits, counts = hits_by_list(np.array([[2, 0, 2], [1, -1, -1]]), [[0, 2], []])
        >>> hits.tolist(), counts.tolist()
        ([[True, True, False], [False, False, False]], [2, 0])
    """
    rows = np.asarray(rows)
    lists = [distinct_rows(listed) for listed in relevant]
    hits = np.zeros(rows.shape, bool)
    for query, listed in enumerate(lists):
        if len(listed):
            index = np.minimum(np.searchsorted(listed, rows[query]), len(listed) - 1)
            hits[query] = listed[index] == rows[query]
    return first_places(rows, hits), np.array([len(listed) for listed in lists], np.int64)


def distinct_rows(values: ArrayLike) -> NDArray[np.int64]:
    """Return the distinct rows of a list, ascending.

    Raises:
        ValueError: The values are not whole numbers from 0.

    Example:
        >>> distinct_rows([3, 0, 3]).tolist(), distinct_rows([]).tolist()
        ([0, 3], [])
    """
    rows = np.asarray(values)
    if not rows.size:
        return np.zeros(0, np.int64)
    is_list = rows.ndim == 1 and rows.dtype.kind in "iuf"
    if not is_list or not ((rows == np.floor(rows)) & (rows >= 0) & (rows < 2**62)).all():
        raise ValueError(f"{values!r:.60} is not a list of rows")
    return np.unique(rows.astype(np.int64))


def first_places(
    rows: NDArray[np.integer], hits: NDArray[np.bool_], block_size: int = BLOCK_SIZE
) -> NDArray[np.bool_]:
    """Drop hits whose row occurs earlier in the same ranking.

    Args:
        rows: Gallery rows, best first, (Q, K).
        hits: Whether the row is relevant, (Q, K).
        block_size: Results processed per block.

    Returns:
        Hits without the repeated ones, (Q, K).

    Example:
        >>> first_places(np.array([[5, 7, 5]]), np.array([[True, False, True]])).tolist()
        [[True, False, False]]
    """
    first = np.zeros(hits.shape, bool)
    for block in query_blocks(rows, block_size):
        query, position = np.nonzero(hits[block])
        ranked = rows[block][query, position].astype(np.int64)
        # Only hits, which are few among the results, are sorted.
        _, unique = np.unique(query * (ranked.max(initial=0) + 1) + ranked, return_index=True)
        first[block][query[unique], position[unique]] = True
    return first


def query_blocks(rows: NDArray[np.integer], block_size: int = BLOCK_SIZE) -> Iterator[slice]:
    """Yield slices of the queries of (Q, K) rows, with about `block_size` results each.

    Example:
        >>> list(query_blocks(np.zeros((3, 4), int), block_size=8))
        [slice(0, 2, None), slice(2, 4, None)]
    """
    step = max(1, block_size // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)

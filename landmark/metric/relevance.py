"""Which results are relevant, by landmark or by a list for each query."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_AT_ONCE = 1 << 22


def hits_by_label(
    rows: NDArray[np.integer], query_labels: ArrayLike, gallery_labels: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Results are relevant where they show the query's landmark.

    Args:
        rows: (Q, K) gallery rows found, best first; -1 pads.
        query_labels: (Q,) ints or strings.
        gallery_labels: (N,) ints or strings.

    Returns:
        hits (Q, K), a repeated row being a hit only at its first place, and how many gallery
        photos are relevant to each query (Q,).
    """
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    names, codes = np.unique(np.concatenate([query_labels, gallery_labels]), return_inverse=True)
    query, gallery = codes[: len(query_labels)], codes[len(query_labels) :]
    rows = np.asarray(rows)
    hits = np.zeros(rows.shape, bool)
    for block in _blocks(rows) if len(gallery) else ():
        found = rows[block]
        hits[block] = (gallery[found] == query[block, None]) & (found >= 0)
    relevant = np.bincount(gallery, minlength=len(names))[query]
    return first_places(rows, hits), relevant


def hits_by_list(
    rows: NDArray[np.integer], relevant: Sequence[ArrayLike]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Results are relevant where they are in the query's list of gallery rows.

    Args:
        rows: (Q, K) gallery rows found, best first; -1 pads.
        relevant: for each query its relevant rows.

    Returns:
        hits (Q, K), a repeated row being a hit only at its first place, and the length of each
        list (Q,).
    """
    rows = np.asarray(rows)
    lists = [np.unique(np.asarray(wanted, np.int64)) for wanted in relevant]
    hits = np.zeros(rows.shape, bool)
    for query, wanted in enumerate(lists):
        if len(wanted):
            place = np.minimum(np.searchsorted(wanted, rows[query]), len(wanted) - 1)
            hits[query] = wanted[place] == rows[query]
    return first_places(rows, hits), np.array([len(wanted) for wanted in lists], np.int64)


def first_places(
    rows: NDArray[np.integer], hits: NDArray[np.bool_], at_once: int = _AT_ONCE
) -> NDArray[np.bool_]:
    """The hits without those whose row stood in the same ranking before, (Q, K)."""
    first = np.zeros(hits.shape, bool)
    for block in _blocks(rows, at_once):
        query, place = np.nonzero(hits[block])
        found = rows[block][query, place].astype(np.int64)
        # Hits are few among the results: only they are sorted.
        _, kept = np.unique(query * (found.max(initial=0) + 1) + found, return_index=True)
        first[block][query[kept], place[kept]] = True
    return first


def _blocks(rows: NDArray[np.integer], at_once: int = _AT_ONCE) -> Iterator[slice]:
    """Runs of whole rankings with about `at_once` results each."""
    step = max(1, at_once // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        yield slice(start, start + step)

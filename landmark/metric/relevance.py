"""Which results are relevant, by landmark or by a list for each query."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
    if len(gallery) == 0:
        return np.zeros(rows.shape, bool), np.zeros(len(rows), np.int64)
    hits = (rows >= 0) & (gallery[np.maximum(rows, 0)] == query[:, None])
    relevant = np.bincount(gallery, minlength=len(names))[query]
    return hits & ~repeated(rows), relevant


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
    return hits & ~repeated(rows), np.array([len(wanted) for wanted in lists], np.int64)


def repeated(rows: NDArray[np.integer], at_once: int = 1 << 22) -> NDArray[np.bool_]:
    """Where a row stands for the second time or later in its query's ranking, (Q, K)."""
    rows = np.asarray(rows)
    again = np.zeros(rows.shape, bool)
    step = max(1, at_once // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        order = np.argsort(block, axis=1, kind="stable")
        ordered = np.take_along_axis(block, order, axis=1)
        same = np.zeros(block.shape, bool)
        same[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        np.put_along_axis(again[start : start + step], order, same, axis=1)
    return again

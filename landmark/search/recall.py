"""Measure the recall of an approximate search on a sample of its queries."""

from typing import NamedTuple

import numpy as np

from landmark.search.flat import Flat
from landmark.search.index import Index
from landmark.search.sharded import shard_search
from landmark.search.top_k import rescore

LEAST_RECALL = 0.9  # a search below it is worth a warning
_MOST_QUERIES, _LEAST_QUERIES = 100, 10
_MOST_PRODUCTS = 2**37  # multiply-adds of the exact search: seconds on a few CPUs
_TOLERANCE = 1e-5  # of the exact scores, which two libraries round differently


class Recall(NamedTuple):
    """The recall of a search.

    Attributes:
        value: Share of the true nearest photos that the search returned, 0 to 1.
        k: Results per query that were compared.
        queries: Size of the sample.
    """

    value: float
    k: int
    queries: int


def measure_recall(
    index: Index,
    query: np.ndarray,
    rows: np.ndarray,
    k: int = 100,
    own_rows: np.ndarray | None = None,
) -> Recall | None:
    """Compare the results of a search with those of exact search.

    The sample is 100 queries; fewer, but at least 10, if the gallery is so large that their exact
    search would cost more than 2^37 multiply-adds. A result counts if its exact score reaches that
    of the true k-th, so the order of ties does not matter. Under a launcher all ranks must call it.

    Args:
        index: The index that was searched.
        query: (Q, D).
        rows: (Q, K) gallery rows that the search returned, -1 pads.
        k: Results per query to compare, at most K.
        own_rows: (Q,) gallery row of each query's own photo, which the search left out; -1 for
            none.

    Returns:
        None if the index is exact, or there is nothing to search.

    Example:
        >>> from landmark.search import IVF
        >>> gallery = np.eye(4, dtype=np.float32)
        >>> index = IVF(n_lists=2, n_probe=2).build(gallery)
        >>> rows, _ = index.search(gallery, k=1)
        >>> measure_recall(index, gallery, rows)
        Recall(value=1.0, k=1, queries=4)
    """
    photos, dim = index.gallery.shape
    k = min(k, rows.shape[1])
    if index.is_exact or not len(query) or not photos or not k:
        return None
    affordable = max(_LEAST_QUERIES, _MOST_PRODUCTS // (photos * dim))
    count = min(_MOST_QUERIES, affordable, len(query))
    drawn = np.sort(np.random.default_rng(0).choice(len(query), count, replace=False))
    sample = np.ascontiguousarray(query[drawn], np.float32)
    own = None if own_rows is None else own_rows[drawn]
    exact = shard_search(Flat(index.device)).build(index.gallery)
    _, true_scores = exact.search_others(sample, k, own)
    _, scores = rescore(sample, index.gallery, rows[drawn, :k], k)
    is_true = true_scores > -np.inf
    least = np.where(is_true, true_scores, np.inf).min(axis=1, keepdims=True)
    returned = (scores >= least - _TOLERANCE * np.maximum(1, np.abs(least))) & (scores > -np.inf)
    return Recall(float(returned.sum() / max(1, is_true.sum())), k, count)

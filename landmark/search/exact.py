"""What every exact search promises: the k best rows of each query, equal scores by row."""

from abc import ABC, abstractmethod

import numpy as np

from landmark.artifact.stacked import StackedVectors
from landmark.search.top_k import pads, ties_by_row

_QUERIES_CONVERTED = 65536
_TIED_RESULTS = 2**24  # results held at once while ties are settled


def check_shapes(query: np.ndarray, gallery: np.ndarray | StackedVectors, k: int) -> None:
    """Refuses what cannot be searched.

    Raises:
        ValueError: k is below 1, or the dimensions differ.
    """
    if k < 1:
        raise ValueError(f"k={k} must be 1 or more")
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query {query.shape} and gallery {gallery.shape} do not fit")


def float32_parts(query: np.ndarray) -> list[slice]:
    """The queries to convert to float32 at once: they may be a whole gallery."""
    if query.dtype == np.float32:
        return [slice(0, len(query))] if len(query) else []
    return [slice(n, n + _QUERIES_CONVERTED) for n in range(0, len(query), _QUERIES_CONVERTED)]


class Exact(ABC):
    """Exact search by inner product, whatever computes the products."""

    def __call__(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search a gallery.

        Args:
            query: (Q, D).
            gallery: (N, D), C order; may be several stacked (`StackedVectors`).
            k: Neighbours a query; may be more than N.

        Returns:
            rows (Q, k) int32 by falling score, -1 where the gallery has no more; and their
            scores (Q, k) float32, -inf there. Equal scores come in the order of their rows, also
            where the k-th place is tied.

        Raises:
            ValueError: k is below 1, or the dimensions differ.
        """
        check_shapes(query, gallery, k)
        rows, scores = pads(len(query), k)
        found = min(k, len(gallery))
        for part in float32_parts(query) if found else []:
            asked = np.ascontiguousarray(query[part], np.float32)
            rows[part, :found], scores[part, :found] = self._settled(asked, gallery, found)
        return rows, scores

    @abstractmethod
    def _nearest(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows and scores (Q, k) by falling score, k <= N; of ties, any."""

    def _settled(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest, k <= N. `_nearest` keeps any of the rows tied for the k-th place.

        So one more is asked for; where it ties with the k-th, as many as it takes to see the end
        of the tie.
        """
        wide = min(k + 1, len(gallery))
        rows, scores = ties_by_row(*self._nearest(query, gallery, wide))
        open_ties = np.flatnonzero((scores[:, k - 1] == scores[:, -1]) & (wide > k))
        rows, scores = rows[:, :k], scores[:, :k]
        while len(open_ties):
            wide = min(4 * wide, len(gallery))
            still_open = []
            at_once = max(1, _TIED_RESULTS // wide)
            for first in range(0, len(open_ties), at_once):
                some = open_ties[first : first + at_once]
                more_rows, more_scores = ties_by_row(*self._nearest(query[some], gallery, wide))
                rows[some], scores[some] = more_rows[:, :k], more_scores[:, :k]
                tied = more_scores[:, k - 1] == more_scores[:, -1]
                still_open.append(some[tied & (wide < len(gallery))])
            open_ties = np.concatenate(still_open)
        return rows, scores

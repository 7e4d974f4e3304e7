"""Exact search by inner product with faiss, on CPU or GPU, in blocks of the gallery."""

import logging
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from landmark.mistake import UserMistake

if TYPE_CHECKING:
    from faiss import StandardGpuResources

logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it announces every import

_GPU_MOST_NEIGHBOURS = 2048  # a limit of faiss on the GPU
_GPU_BYTES = 2**32  # of the gallery on the GPU at once
_QUERIES_CONVERTED = 65536
_TIED_RESULTS = 2**24  # results held at once while ties are settled


class Flat:
    """Exact search: the k gallery rows of the largest inner product, for each query.

    A gallery in float32 is searched where it lies, memory-mapped or not. Any other, say a
    memory-mapped float16 one, is converted block by block: no second copy of it ever exists. Equal
    scores come in the order of their rows, also where the k-th place is tied.

    Args:
        device: `cpu`, `cuda`, or `auto`: a GPU where faiss sees one.
        block_rows: Gallery rows converted at once.

    Raises:
        UserMistake: The device is unknown, or is `cuda` and faiss sees no GPU.
    """

    def __init__(self, device: str = "auto", block_rows: int = 65536) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UserMistake(f"search.device={device} must be auto, cpu or cuda")
        if block_rows < 1:
            raise UserMistake(f"search.block_rows={block_rows} must be 1 or more")
        self.device = device
        self.block_rows = block_rows

    def __call__(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search a gallery.

        Args:
            query: (Q, D).
            gallery: (N, D), C order.
            k: Neighbours a query; may be more than N.

        Returns:
            rows (Q, k) int32 by falling score, -1 where the gallery has no more; and their
            scores (Q, k) float32, -inf there.

        Raises:
            ValueError: k is below 1, or the dimensions differ.
        """
        if k < 1:
            raise ValueError(f"k={k} must be 1 or more")
        if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
            raise ValueError(f"query {query.shape} and gallery {gallery.shape} do not fit")
        rows = np.full((len(query), k), -1, np.int32)
        scores = np.full((len(query), k), -np.inf, np.float32)
        found = min(k, len(gallery))
        # Queries of another dtype are converted in parts too: they may be a whole gallery.
        at_once = len(query) if query.dtype == np.float32 else _QUERIES_CONVERTED
        for first in range(0, len(query) if found else 0, max(1, at_once)):
            part = slice(first, first + at_once)
            asked = np.ascontiguousarray(query[part], np.float32)
            rows[part, :found], scores[part, :found] = self._exact(asked, gallery, found)
        return rows, scores

    def _exact(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest, k <= N. faiss keeps any of the rows tied for the k-th place.

        So one more is asked for; where it ties with the k-th, as many as it takes to see the end
        of the tie.
        """
        wide = min(k + 1, len(gallery))
        rows, scores = self._nearest(query, gallery, wide)
        open_ties = np.flatnonzero((scores[:, k - 1] == scores[:, -1]) & (wide > k))
        rows, scores = rows[:, :k], scores[:, :k]
        while len(open_ties):
            wide = min(4 * wide, len(gallery))
            still_open = []
            at_once = max(1, _TIED_RESULTS // wide)
            for first in range(0, len(open_ties), at_once):
                some = open_ties[first : first + at_once]
                more_rows, more_scores = self._nearest(query[some], gallery, wide)
                rows[some], scores[some] = more_rows[:, :k], more_scores[:, :k]
                tied = more_scores[:, k - 1] == more_scores[:, -1]
                still_open.append(some[tied & (wide < len(gallery))])
            open_ties = np.concatenate(still_open)
        return rows, scores

    def _nearest(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest, k <= N, equal scores by row; of a tie for the k-th place, any."""
        if gallery.dtype == np.float32:
            return _ties_by_row(*self._knn(query, gallery, k))
        rows = np.full((len(query), k), -1, np.int64)
        scores = np.full((len(query), k), -np.inf, np.float32)
        for first in range(0, len(gallery), self.block_rows):
            block = np.ascontiguousarray(gallery[first : first + self.block_rows], np.float32)
            found, found_scores = self._knn(query, block, min(k, len(block)))
            rows, scores = _merge(rows, scores, found + first, found_scores)
        return _ties_by_row(rows, scores)

    def _knn(self, query: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows of a float32 block, k <= its length, in faiss's own order."""
        import faiss

        if self._on_gpu and k <= _GPU_MOST_NEIGHBOURS:
            scores, rows = faiss.knn_gpu(
                _gpu_resources(),
                query,
                block,
                k,
                metric=faiss.METRIC_INNER_PRODUCT,
                vectorsMemoryLimit=_GPU_BYTES,
            )
        else:
            scores, rows = faiss.knn(query, block, k, metric=faiss.METRIC_INNER_PRODUCT)
        return rows, scores

    @property
    def _on_gpu(self) -> bool:
        import faiss

        if self.device == "cpu":
            return False
        seen = hasattr(faiss, "knn_gpu") and faiss.get_num_gpus() > 0
        if self.device == "cuda" and not seen:
            raise UserMistake("search.device=cuda, but faiss sees no GPU: choose cpu or auto")
        return seen


@cache
def _gpu_resources() -> "StandardGpuResources":
    """The working memory of faiss on the GPU, taken once."""
    import faiss

    return faiss.StandardGpuResources()


def _merge(
    rows: np.ndarray, scores: np.ndarray, more_rows: np.ndarray, more_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best K of each line of (Q, K) and (Q, J), J <= K, both by falling score."""
    import faiss

    lacking = rows.shape[1] - more_rows.shape[1]
    both_rows = np.stack([rows, np.pad(more_rows, ((0, 0), (0, lacking)), constant_values=-1)])
    both_scores = np.stack(
        [scores, np.pad(more_scores, ((0, 0), (0, lacking)), constant_values=-np.inf)]
    )
    scores, rows = faiss.merge_knn_results(both_scores, both_rows, keep_max=True)
    return rows, scores


def _ties_by_row(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put equal scores, side by side in each line of (Q, K), in the order of their rows."""
    tied = np.flatnonzero((scores[:, 1:] == scores[:, :-1]).any(axis=1))
    order = np.lexsort((rows[tied], -scores[tied]), axis=1)
    rows[tied] = np.take_along_axis(rows[tied], order, axis=1)
    return rows, scores

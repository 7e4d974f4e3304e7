"""Search the first dimensions of the vectors, then rescore the candidates with all of them."""

import numpy as np

from landmark.artifact.converted import ConvertedVectors, unit_rows
from landmark.artifact.vectors import row_blocks
from landmark.error import UserError
from landmark.search.blocks import Vectors
from landmark.search.index import Index, Search
from landmark.search.top_k import pads, rescore

_CANDIDATES_TOGETHER = 2**25  # rows and scores of the candidates of a block of queries: 256 MB


class LeadingDimensions:
    """Vectors (n, D) → their first d dimensions (n, d) float32, of unit length.

    Example:
        >>> LeadingDimensions(1)(np.array([[0.6, 0.8]])).tolist()
        [[1.0]]
    """

    def __init__(self, dims: int) -> None:
        self._dims = dims

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return the leading dimensions."""
        return unit_rows(np.array(vectors[:, : self._dims], np.float32, order="C"))


def leading(gallery: Vectors, dims: int) -> ConvertedVectors:
    """Return the first dimensions of a gallery (N, D), which are read block by block.

    Raises:
        UserError: The vectors have fewer dimensions.

    Example:
        >>> leading(np.array([[0.6, 0.8]]), dims=1)[:].tolist()
        [[1.0]]
    """
    if dims > gallery.shape[1]:
        raise UserError(
            f"search.dims={dims} is more than the {gallery.shape[1]} dimensions of the vectors. "
            f"Pass {gallery.shape[1]} or less."
        )
    return ConvertedVectors(gallery, dims, LeadingDimensions(dims))


class LeadingIndex(Index):
    """A gallery that is searched by its first dimensions; the candidates are rescored with all.

    Args:
        gallery: (N, D).
        settings: The search.
        index: Index of the gallery's first dimensions, see `leading`.
        refine: Candidates per result; 0 keeps the scores of the first dimensions.

    Source:
        Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022, arXiv 2205.13147:
        adaptive retrieval.

    Example:
        >>> from landmark.search import Flat
        >>> gallery = np.array([[0.6, 0, 0.8], [0.6, 0.8, 0], [0, 1, 0]], np.float32)
        >>> rows, scores = Flat(dims=2, refine=2).build(gallery).search(gallery[:1], k=1)
        >>> rows.tolist(), scores.round(2).tolist()
        ([[0]], [[1.0]])
    """

    def __init__(self, gallery: Vectors, settings: Search, index: Index, refine: int) -> None:
        super().__init__(gallery, settings)
        self._index = index
        self._refine = refine
        self._leading = LeadingDimensions(index.gallery.shape[1])

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search (see `Index.search`)."""
        if k < 1:
            raise ValueError(f"k={k} must be 1 or more")
        if query.ndim != 2 or query.shape[1] != self.gallery.shape[1]:
            raise ValueError(f"query {query.shape} and gallery {self.gallery.shape} do not match")
        rows, scores = pads(len(query), k)
        hits = min(k, len(self.gallery))
        count = min(len(self.gallery), hits * max(1, self._refine))
        for part in row_blocks(len(query) if hits else 0, _CANDIDATES_TOGETHER // max(1, count)):
            block = np.ascontiguousarray(query[part], np.float32)
            found = self._index.search(self._leading(block), count)
            if self._refine:
                found = self._rescored(block, found[0], hits)
            rows[part, :hits], scores[part, :hits] = found
        return rows, scores

    def _rescored(
        self, query: np.ndarray, candidates: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best of the candidates (Q, C), -1 pads."""
        return rescore(query, self.gallery, candidates, k)

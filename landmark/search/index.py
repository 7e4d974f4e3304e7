"""What every search builds: an index of a gallery, which returns the rows nearest to a query."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.device import torch_device
from landmark.processes import launch
from landmark.search.blocks import Vectors
from landmark.search.top_k import pads, ties_by_row

if TYPE_CHECKING:
    import torch

_CONVERTED_QUERIES = 65536
_TIED_RESULTS = 2**24  # results held together while ties are settled


class Search(Protocol):
    """The settings of a search, which build an index of any gallery.

    Attributes:
        device: Where an index is searched (see `landmark.device`).
    """

    @property
    def device(self) -> str: ...  # noqa: D102 - an attribute

    def build(self, gallery: Vectors) -> "Index":
        """Build an index of a gallery (N, D), C order."""


class Index(ABC):
    """A gallery that can be searched. What was built for it is freed with the index.

    Attributes:
        gallery: (N, D); memory-mapped or not, or several stacked (`StackedVectors`).
        settings: The search. `settings.build(other)` builds the same kind of index for another
            gallery; it never writes to the folder of a saved index.
    """

    def __init__(self, gallery: Vectors, settings: Search) -> None:
        self.gallery = gallery
        self.settings = settings

    @property
    def device(self) -> str:
        """Where it is searched: auto, cpu, mps, cuda or cuda:N."""
        return self.settings.device

    @abstractmethod
    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k gallery rows of the largest inner product with each query.

        Args:
            query: (Q, D).
            k: Neighbours of a query; may be more than N.

        Returns:
            Rows (Q, k) int32 by descending score, -1 where there are no more; and their scores
            (Q, k) float32, -inf there. Equal scores are ordered by row.

        Raises:
            ValueError: k is below 1, or the dimensions differ.
        """


class DeferredIndex(Index):
    """An index that is built at its first search.

    Args:
        gallery: (N, D).
        settings: The search that builds it.

    Example:
        >>> from landmark.search import Flat
        >>> index = DeferredIndex(np.eye(2, dtype=np.float32), Flat())
        >>> index.search(np.array([[0.6, 0.8]]), 1)[0].tolist()
        [[1]]
    """

    _built: Index | None = None

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Build the index the first time, and search it (see `Index.search`)."""
        if self._built is None:
            self._built = self.settings.build(self.gallery)
        return self._built.search(query, k)


class BlockwiseIndex(Index):
    """An index whose queries are converted and searched block by block."""

    query_block: ClassVar[int | None] = None  # None: all queries that are float32 together

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search (see `Index.search`)."""
        if k < 1:
            raise ValueError(f"k={k} must be 1 or more")
        if query.ndim != 2 or query.shape[1] != self.gallery.shape[1]:
            raise ValueError(f"query {query.shape} and gallery {self.gallery.shape} do not fit")
        rows, scores = pads(len(query), k)
        reached = min(k, len(self.gallery))
        is_float32 = query.dtype == np.float32
        block_size = self.query_block or (len(query) if is_float32 else _CONVERTED_QUERIES)
        for part in row_blocks(len(query) if reached else 0, block_size):
            block = np.ascontiguousarray(query[part], np.float32)
            rows[part, :reached], scores[part, :reached] = self._nearest(block, reached)
        return rows, scores

    @abstractmethod
    def _nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest rows and scores (Q, k), ties by row; query (Q, D) float32, 1 <= k <= N."""


class ExactIndex(BlockwiseIndex):
    """A gallery searched exactly, whatever computes the products."""

    @abstractmethod
    def _any_nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest by descending score; of rows tied for the k-th place any."""

    def _nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search for one more; where it ties with the k-th, for as many as end the tie."""
        photos = len(self.gallery)
        wide = min(k + 1, photos)
        rows, scores = ties_by_row(*self._any_nearest(query, wide))
        open_ties = np.flatnonzero((scores[:, k - 1] == scores[:, -1]) & (wide > k))
        rows, scores = rows[:, :k], scores[:, :k]
        while len(open_ties):
            wide = min(4 * wide, photos)
            still_open = []
            for block in row_blocks(len(open_ties), _TIED_RESULTS // wide):
                some = open_ties[block]
                wide_rows, wide_scores = ties_by_row(*self._any_nearest(query[some], wide))
                rows[some], scores[some] = wide_rows[:, :k], wide_scores[:, :k]
                tied = wide_scores[:, k - 1] == wide_scores[:, -1]
                still_open.append(some[tied & (wide < photos)])
            open_ties = np.concatenate(still_open)
        return rows, scores


def local_torch_device(device: str) -> "torch.device":
    """The torch device of this process, its own GPU where a launcher started several.

    Example:
        >>> local_torch_device("cpu").type
        'cpu'
    """
    here = launch()
    return torch_device(device, here.local_rank, here.local_world_size)

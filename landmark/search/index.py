"""The interface of searches and indexes, and the parts that several indexes share."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from landmark.artifact.vectors import row_blocks
from landmark.device import torch_device
from landmark.processes import launch
from landmark.search.blocks import Vectors
from landmark.search.top_k import pads, without_rows

if TYPE_CHECKING:
    import torch

_CONVERTED_QUERIES = 65536


class Search(Protocol):
    """The settings of a search, which build an index of any gallery.

    Attributes:
        device: Device to search on (see `landmark.device`).
        widened_by: Settings that raise the recall; empty for an exact search.
    """

    @property
    def device(self) -> str: ...  # noqa: D102 - an attribute

    @property
    def widened_by(self) -> str: ...  # noqa: D102 - an attribute

    def build(self, gallery: Vectors) -> "Index":
        """Build an index of a gallery (N, D), C order."""


class Index(ABC):
    """A gallery that can be searched. Its memory is freed with the index.

    Attributes:
        gallery: (N, D); may be memory-mapped or stacked (`StackedVectors`).
        settings: The search. `settings.build(other)` builds an index with the same settings for
            another gallery; it never writes to the folder of a saved index.
    """

    def __init__(self, gallery: Vectors, settings: Search) -> None:
        self.gallery = gallery
        self.settings = settings

    @property
    def device(self) -> str:
        """Device to search on: auto, cpu, mps, cuda or cuda:N."""
        return self.settings.device

    @property
    def is_exact(self) -> bool:
        """Whether every search returns the true nearest rows."""
        return False

    @abstractmethod
    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k gallery rows with the largest inner product for each query.

        Args:
            query: (Q, D).
            k: Results per query; may exceed N.

        Returns:
            Rows (Q, k) int32 by descending score, -1 pads; and scores (Q, k) float32, -inf at the
            pads. Equal scores are ordered by row.

        Raises:
            ValueError: k is below 1, or the dimensions differ.
        """

    def search_wide(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search, with the scores by which the rows are ordered, to be merged with other rankings.

        Returns:
            Rows (Q, k) int32, -1 pads; and scores (Q, k), float64 if the search computes them.

        Example:
            >>> from landmark.search import Flat
            >>> index = Flat().build(np.eye(2, dtype=np.float32))
            >>> index.search_wide(np.array([[0.6, 0.8]]), 1)[1].dtype
            dtype('float64')
        """
        return self.search(query, k)

    def search_others(
        self, query: np.ndarray, k: int, own_rows: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search, leaving out each query's own photo.

        Args:
            query: (Q, D).
            k: Results per query, without the own photo.
            own_rows: (Q,) gallery row of each query's own photo, -1 if it is not in the gallery.
                None means that no query is.

        Example:
            >>> from landmark.search import Flat
            >>> photos = np.eye(2, dtype=np.float32)
            >>> Flat().build(photos).search_others(photos, 1, np.array([0, -1]))[0].tolist()
            [[1], [1]]
        """
        if own_rows is None or (own_rows < 0).all():
            return self.search(query, k)
        return without_rows(*self.search(query, k + 1), own_rows)


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

    @property
    def is_exact(self) -> bool:
        """Whether the built index is exact."""
        return self._built is not None and self._built.is_exact

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Build the index at the first call, and search it (see `Index.search`)."""
        if self._built is None:
            self._built = self.settings.build(self.gallery)
        return self._built.search(query, k)


class BlockwiseIndex(Index):
    """An index whose queries are converted and searched block by block."""

    query_block: ClassVar[int | None] = None  # None: a single block if the queries are float32

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search (see `Index.search`)."""
        return self._search(query, k, np.float32)

    def search_wide(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search (see `Index.search_wide`)."""
        return self._search(query, k, np.float64)

    def _search(
        self, query: np.ndarray, k: int, dtype: type[np.floating]
    ) -> tuple[np.ndarray, np.ndarray]:
        if k < 1:
            raise ValueError(f"k={k} must be 1 or more")
        if query.ndim != 2 or query.shape[1] != self.gallery.shape[1]:
            raise ValueError(f"query {query.shape} and gallery {self.gallery.shape} do not match")
        rows, scores = pads(len(query), k, dtype)
        hits = min(k, len(self.gallery))
        is_float32 = isinstance(query, np.ndarray) and query.dtype == np.float32
        block_size = self.query_block or (len(query) if is_float32 else _CONVERTED_QUERIES)
        for part in row_blocks(len(query) if hits else 0, block_size):
            block = np.ascontiguousarray(query[part], np.float32)
            rows[part, :hits], scores[part, :hits] = self._nearest(block, hits)
        return rows, scores

    @abstractmethod
    def _nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and scores (Q, k), ties by row, for query (Q, D) float32 and 1 <= k <= N.

        Scores are float32 or float64.
        """


def local_torch_device(device: str) -> "torch.device":
    """Return the torch device of this process; under a launcher the GPU of its local rank.

    Example:
        >>> local_torch_device("cpu").type
        'cpu'
    """
    started = launch()
    return torch_device(device, started.local_rank, started.local_world_size)

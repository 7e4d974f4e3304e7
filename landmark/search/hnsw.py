"""Approximate search in a graph of neighbours."""

from typing import TYPE_CHECKING, Annotated, Unpack

from pydantic import Field, NonNegativeInt

from landmark.search.faiss_index import FaissSearch, IndexOptions, Int32
from landmark.search.ivf import STORAGE, Storage
from landmark.settings import checked

if TYPE_CHECKING:
    from faiss import Index


class HNSW(FaissSearch):
    """Approximate search in a hierarchical graph (Malkov and Yashunin 2018; faiss IndexHNSW).

    The fastest index to search and the slowest to build; faiss searches it on the CPU only. Builds
    with several threads are not deterministic: the graphs may differ slightly.

    Args:
        neighbours: Links per photo on each level, twice as many on the lowest (M in the paper).
        ef_construction: Candidates examined when a photo is inserted.
        ef_search: Candidates examined per query, at least k. More raise recall and time.
        storage: Format of the stored descriptors: `float32`, `float16`, or `sq8`, 8 bits per value.
        refine: See `FaissSearch`; 2 suits `sq8`.
        **options: See `IndexOptions`. The `train_rows` determine the value range of `sq8`.

    Example:
        >>> import numpy as np
        >>> index = HNSW().build(np.eye(4, dtype=np.float32))
        >>> index.search(np.array([[0, 0.6, 0.8, 0]]), k=2)[0].tolist()
        [[2, 1]]
    """

    name = "hnsw"
    shaped_by = ("neighbours", "ef_construction", "storage")
    widened_by = "search.ef_search or search.neighbours"

    @checked
    def __init__(
        self,
        neighbours: Annotated[int, Field(ge=2, le=2**15)] = 32,
        ef_construction: Int32 = 80,
        ef_search: Int32 = 256,
        storage: Storage = "float32",
        refine: NonNegativeInt = 0,
        **options: Unpack[IndexOptions],
    ) -> None:
        super().__init__(refine, **options)
        self.neighbours = neighbours
        self.ef_construction = ef_construction
        self.ef_search = ef_search
        self.storage = storage

    def factory_string(self, rows: int, dim: int) -> str:
        """Return the faiss factory string of an index of (rows, dim)."""
        del rows, dim
        return f"HNSW{self.neighbours},{STORAGE[self.storage]}"

    def parameters(self, vectors: int) -> str:
        """Return the search parameters in faiss's form."""
        # faiss allocates as many candidates, and more than all vectors find nothing new.
        return f"efSearch={min(self.ef_search, max(1, vectors))}"

    def prepare(self, index: "Index") -> None:
        """Set the number of candidates examined when a photo is inserted."""
        index.hnsw.efConstruction = self.ef_construction  # type: ignore[attr-defined]

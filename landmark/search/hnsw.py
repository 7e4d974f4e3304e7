"""A graph of neighbours, walked towards the query."""

from typing import TYPE_CHECKING, Annotated, Unpack

from pydantic import Field, NonNegativeInt, PositiveInt

from landmark.search.faiss_index import FaissSearch, IndexOptions
from landmark.search.ivf import STORAGE, Storage
from landmark.settings import checked

if TYPE_CHECKING:
    from faiss import Index


class HNSW(FaissSearch):
    """Approximate search in a hierarchical graph (Malkov and Yashunin 2018; faiss IndexHNSW).

    The fastest to search and the slowest to build; faiss searches it on the CPU only. Built with
    several threads, the graph may differ slightly from one time to the next.

    Args:
        neighbours: Links of a photo on each level, twice as many on the lowest (M of the paper).
        ef_construction: Candidates looked at while a photo is linked.
        ef_search: Candidates looked at for a query, at least k. The recall grows with it, and so
            does the time.
        storage: How the index holds a descriptor: `float32`, `float16`, or `sq8`, 8 bits a value.
        refine: See `FaissSearch`; 2 suits `sq8`.
        **options: See `IndexOptions`. `train_rows` give `sq8` the range of the values.

    Example:
        >>> import numpy as np
        >>> index = HNSW().build(np.eye(4, dtype=np.float32))
        >>> index.search(np.array([[0, 0.6, 0.8, 0]]), k=2)[0].tolist()
        [[2, 1]]
    """

    name = "hnsw"
    shaped_by = ("neighbours", "ef_construction", "storage")

    @checked
    def __init__(
        self,
        neighbours: Annotated[int, Field(ge=2)] = 32,
        ef_construction: PositiveInt = 80,
        ef_search: PositiveInt = 256,
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
        """Return faiss's description of an index of (rows, dim)."""
        del rows, dim
        return f"HNSW{self.neighbours},{STORAGE[self.storage]}"

    def parameters(self) -> str:
        """Return the parameters of a search, in faiss's form."""
        return f"efSearch={self.ef_search}"

    def prepare(self, index: "Index") -> None:
        """Set how many candidates are looked at while photos are linked."""
        index.hnsw.efConstruction = self.ef_construction  # type: ignore[attr-defined]

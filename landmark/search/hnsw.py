"""A graph of neighbours, walked towards the query."""

from typing import TYPE_CHECKING, Any

from landmark.search.indexed import Indexed, check_choice, check_least
from landmark.search.ivf import STORAGE

if TYPE_CHECKING:
    from faiss import Index


class HNSW(Indexed):
    """Approximate search in a hierarchical graph (Malkov and Yashunin 2018; faiss IndexHNSW).

    The quickest to ask and the slowest to build; on the CPU alone. Built with several threads, the
    graph may differ a little from one time to the next.

    Args:
        neighbours: Links a photo on each level, twice as many on the lowest (M of the paper).
        ef_construction: Candidates looked at while a photo is linked.
        ef_search: Candidates looked at while a query walks, at least k. The recall grows with it,
            and the time in proportion.
        storage: How the index holds a descriptor: `float32`, `float16`, or `sq8`, 8 bits a value.
        refine: See `Indexed`; with `sq8` say 2.
        train_rows: Gallery rows that `sq8` takes the range of values from.
        seed: Of the drawing of those.
        index: Folder of the saved index.
        block_rows: Gallery rows added at once.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(
        self,
        neighbours: int = 32,
        ef_construction: int = 80,
        ef_search: int = 256,
        storage: str = "float32",
        refine: int = 0,
        train_rows: int | None = None,
        seed: int = 0,
        index: str | None = None,
        block_rows: int = 65536,
    ) -> None:
        super().__init__(refine, train_rows, seed, index, "cpu", block_rows)
        check_least("neighbours", neighbours, 2)
        check_least("ef_construction", ef_construction, 1)
        check_least("ef_search", ef_search, 1)
        check_choice("storage", storage, STORAGE)
        self.neighbours = neighbours
        self.ef_construction = ef_construction
        self.ef_search = ef_search
        self.storage = storage

    def description(self, rows: int, dim: int) -> str:
        """The faiss factory string of an index of (rows, dim)."""
        del rows, dim
        return f"HNSW{self.neighbours},{STORAGE[self.storage]}"

    def parameters(self) -> str:
        """The settings of the search, as faiss writes them."""
        return f"efSearch={self.ef_search}"

    def widen(self, rows: int, k: int) -> bool:
        """Looks at twice as many candidates; False where it sees all."""
        wider = super().widen(rows, k)
        if self.ef_search >= rows:
            return wider
        self.ef_search *= 2
        return True

    def shape(self, index: "Index") -> None:
        """Sets what the building looks at."""
        index.hnsw.efConstruction = self.ef_construction  # type: ignore[attr-defined]

    def built_with(self) -> dict[str, Any]:
        """The settings that shape the index."""
        return {
            "search": "hnsw",
            "neighbours": self.neighbours,
            "ef_construction": self.ef_construction,
            "storage": self.storage,
        }

"""Inverted lists: only the lists of the nearest cluster centres are searched."""

import math
from typing import Any

from landmark.search.indexed import Indexed, check_choice, check_least

STORAGE = {"float32": "Flat", "float16": "SQfp16", "sq8": "SQ8"}
_ROWS_A_LIST = 39  # faiss wants no fewer to train on


class IVF(Indexed):
    """Approximate search in inverted lists (Sivic and Zisserman 2003; faiss IndexIVF).

    The gallery is clustered by k-means; a query is compared with the photos of the `n_probe`
    lists whose centres are nearest. `n_probe` = `n_lists` compares with all.

    Args:
        n_lists: Lists; none: 4 √N, as faiss advises, fewer where these would hold under 39 photos.
        n_probe: Lists searched a query. The recall grows with it, and the time in proportion.
        storage: How the index holds a descriptor: `float32`, `float16`, or `sq8`, 8 bits a value.
        refine: See `Indexed`; with `sq8` say 2.
        train_rows: See `Indexed`.
        seed: Of the training.
        index: Folder of the saved index.
        device: As of `Flat`.
        block_rows: Gallery rows added at once.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(
        self,
        n_lists: int | None = None,
        n_probe: int = 32,
        storage: str = "float32",
        refine: int = 0,
        train_rows: int | None = None,
        seed: int = 0,
        index: str | None = None,
        device: str = "auto",
        block_rows: int = 65536,
    ) -> None:
        super().__init__(refine, train_rows, seed, index, device, block_rows)
        check_least("n_lists", n_lists, 1)
        check_least("n_probe", n_probe, 1)
        check_choice("storage", storage, STORAGE)
        self.n_lists = n_lists
        self.n_probe = n_probe
        self.storage = storage

    def description(self, rows: int, dim: int) -> str:
        """The faiss factory string of an index of (rows, dim)."""
        del dim
        return f"IVF{lists_of(self.n_lists, rows)},{STORAGE[self.storage]}"

    def parameters(self) -> str:
        """The settings of the search, as faiss writes them."""
        return f"nprobe={self.n_probe}"

    def widen(self, rows: int, k: int) -> bool:
        """Looks into twice as many lists; False where it sees all."""
        wider = super().widen(rows, k)
        if self.n_probe >= lists_of(self.n_lists, rows):
            return wider
        self.n_probe *= 2
        return True

    def built_with(self) -> dict[str, Any]:
        """The settings that shape the index."""
        return {"search": "ivf", "n_lists": self.n_lists, "storage": self.storage}


def lists_of(n_lists: int | None, rows: int) -> int:
    """The lists for a gallery: as many as given, else 4 √N; each holds a photo or more."""
    if n_lists is not None:
        return min(n_lists, rows)
    return max(1, min(round(4 * math.sqrt(rows)), rows // _ROWS_A_LIST))

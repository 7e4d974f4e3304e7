"""Inverted lists: only the lists of the nearest cluster centres are searched."""

import math
from abc import abstractmethod
from typing import Literal, Self, Unpack

from pydantic import NonNegativeInt, PositiveInt

from landmark.search.faiss_index import FaissSearch, IndexOptions
from landmark.settings import checked

Storage = Literal["float32", "float16", "sq8"]
STORAGE = {"float32": "Flat", "float16": "SQfp16", "sq8": "SQ8"}  # in factory strings
_ROWS_OF_A_LIST = 39  # faiss wants no fewer to train on


class InvertedLists(FaissSearch):
    """Settings of a search in inverted lists, whatever they hold.

    Args:
        n_lists: Number of lists. Defaults to 4 √N, fewer where these would hold under 39 photos.
        n_probe: Lists searched for a query.
        refine: See `FaissSearch`.
        **options: See `IndexOptions`.
    """

    @checked
    def __init__(
        self,
        n_lists: PositiveInt | None,
        n_probe: PositiveInt,
        refine: NonNegativeInt,
        **options: Unpack[IndexOptions],
    ) -> None:
        super().__init__(refine, **options)
        self.n_lists = n_lists
        self.n_probe = n_probe

    def lists(self, rows: int) -> int:
        """Return the number of lists for a gallery of so many rows; each holds a photo or more."""
        if self.n_lists is not None:
            return min(self.n_lists, rows)
        return max(1, min(round(4 * math.sqrt(rows)), rows // _ROWS_OF_A_LIST))

    @abstractmethod
    def bytes_of(self, dim: int) -> int:
        """Return the bytes that the index stores of a photo."""

    def parameters(self) -> str:
        """Return the parameters of a search, in faiss's form."""
        return f"nprobe={self.n_probe}"

    def wider(self, rows: int, k: int) -> Self | None:
        """Return settings that look at twice as much of N rows; None where all is looked at."""
        wider = {}
        if 0 < self.refine * k < rows:
            wider["refine"] = 2 * self.refine
        if self.n_probe < self.lists(rows):
            wider["n_probe"] = 2 * self.n_probe
        return self.replaced(**wider) if wider else None


class IVF(InvertedLists):
    """Approximate search in inverted lists (Sivic and Zisserman 2003; faiss IndexIVF).

    The gallery is clustered by k-means; a query is compared with the photos of the `n_probe`
    lists whose centres are nearest. `n_probe` = `n_lists` compares with all.

    Args:
        n_lists: Number of lists. Defaults to 4 √N, fewer where these would hold under 39 photos.
        n_probe: Lists searched for a query. The recall grows with it, and so does the time.
        storage: How the index holds a descriptor: `float32`, `float16`, or `sq8`, 8 bits a value.
        refine: See `FaissSearch`; 2 suits `sq8`.
        **options: See `IndexOptions`.

    Example:
        >>> import numpy as np
        >>> index = IVF(n_lists=2, n_probe=2).build(np.eye(4, dtype=np.float32))
        >>> index.search(np.array([[0, 0.6, 0.8, 0]]), k=2)[0].tolist()
        [[2, 1]]
    """

    name = "ivf"
    shaped_by = ("n_lists", "storage")

    @checked
    def __init__(
        self,
        n_lists: PositiveInt | None = None,
        n_probe: PositiveInt = 32,
        storage: Storage = "float32",
        refine: NonNegativeInt = 0,
        **options: Unpack[IndexOptions],
    ) -> None:
        super().__init__(n_lists, n_probe, refine, **options)
        self.storage = storage

    def factory_string(self, rows: int, dim: int) -> str:
        """Return faiss's description of an index of (rows, dim)."""
        del dim
        return f"IVF{self.lists(rows)},{STORAGE[self.storage]}"

    def bytes_of(self, dim: int) -> int:
        """Return the bytes that the index stores of a photo."""
        return {"float32": 4, "float16": 2, "sq8": 1}[self.storage] * dim

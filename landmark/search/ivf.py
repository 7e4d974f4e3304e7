"""Inverted lists: search only the lists of the nearest cluster centroids."""

import math
from abc import abstractmethod
from typing import Literal, Self, Unpack

from pydantic import NonNegativeInt

from landmark.search.faiss_index import FaissSearch, IndexOptions, Int32
from landmark.settings import checked

Storage = Literal["float32", "float16", "sq8"]
STORAGE = {"float32": "Flat", "float16": "SQfp16", "sq8": "SQ8"}  # in factory strings
_LEAST_ROWS_OF_A_LIST = 39  # faiss warns about fewer training rows per list


class InvertedLists(FaissSearch):
    """Settings of a search in inverted lists, of descriptors or of codes.

    Args:
        n_lists: Number of lists. Defaults to 4 √N, at most N / 39.
        n_probe: Lists searched per query.
        refine: See `FaissSearch`.
        **options: See `IndexOptions`.
    """

    key = "search.n_lists"
    widened_by = "search.n_probe or search.refine"

    @checked
    def __init__(
        self,
        n_lists: Int32 | None,
        n_probe: Int32,
        refine: NonNegativeInt,
        **options: Unpack[IndexOptions],
    ) -> None:
        super().__init__(refine, **options)
        self.n_lists = n_lists
        self.n_probe = n_probe

    def lists(self, rows: int) -> int:
        """Return the number of lists for a gallery of `rows` rows, at most `rows`."""
        if self.n_lists is not None:
            return min(self.n_lists, rows)
        return max(1, min(round(4 * math.sqrt(rows)), rows // _LEAST_ROWS_OF_A_LIST))

    @abstractmethod
    def bytes_of(self, dim: int) -> int:
        """Return the stored bytes per photo."""

    def parameters(self, vectors: int) -> str:
        """Return the search parameters in faiss's form."""
        del vectors
        return f"nprobe={self.n_probe}"

    def wider(self, rows: int, k: int) -> Self | None:
        """Return settings that search twice as much of N rows; None if the search is exhaustive."""
        wider = {}
        if 0 < self.refine * k < rows:
            wider["refine"] = 2 * self.refine
        if self.n_probe < self.lists(rows):
            wider["n_probe"] = 2 * self.n_probe
        return self.replaced(**wider) if wider else None


class IVF(InvertedLists):
    """Approximate search in inverted lists (Sivic and Zisserman 2003; faiss IndexIVF).

    The gallery is clustered by k-means; a query is compared with the photos in the `n_probe` lists
    with the nearest centroids. `n_probe` = `n_lists` compares it with all photos.

    Args:
        n_lists: Number of lists. Defaults to 4 √N, at most N / 39.
        n_probe: Lists searched per query. More raise recall and time.
        storage: Format of the stored descriptors: `float32`, `float16`, or `sq8`, 8 bits per value.
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
        n_lists: Int32 | None = None,
        n_probe: Int32 = 32,
        storage: Storage = "float32",
        refine: NonNegativeInt = 0,
        **options: Unpack[IndexOptions],
    ) -> None:
        super().__init__(n_lists, n_probe, refine, **options)
        self.storage = storage

    def factory_string(self, rows: int, dim: int) -> str:
        """Return the faiss factory string of an index of (rows, dim)."""
        del dim
        return f"IVF{self.lists(rows)},{STORAGE[self.storage]}"

    def bytes_of(self, dim: int) -> int:
        """Return the stored bytes per photo."""
        return {"float32": 4, "float16": 2, "sq8": 1}[self.storage] * dim

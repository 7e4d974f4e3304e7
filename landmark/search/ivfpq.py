"""Inverted lists of product-quantized descriptors: a few bytes per photo."""

from typing import Unpack

from pydantic import NonNegativeInt, PositiveInt

from landmark.error import UserError
from landmark.search.faiss_index import IndexOptions, Int32
from landmark.search.ivf import InvertedLists
from landmark.settings import checked


class IVFPQ(InvertedLists):
    """Approximate search in inverted lists of codes (Jégou, Douze, Schmid 2011; faiss IndexIVFPQ).

    A descriptor is stored in `code_bytes` bytes: it is split into that many parts, each encoded as
    the nearest of 256 centroids learned by k-means. The scores of codes are coarse, so the best
    candidates are re-scored exactly with the gallery's descriptors.

    Args:
        code_bytes: Bytes per photo, a divisor of the dimension. Defaults to one per 8 dimensions.
        n_lists: Number of lists. Defaults to 4 √N, at most N / 39.
        n_probe: Lists searched per query.
        refine: Candidates re-scored per result; 0 keeps the scores of the codes.
        **options: See `IndexOptions`.

    Example:
        >>> import numpy as np
        >>> index = IVFPQ(code_bytes=2).build(np.eye(4, dtype=np.float32))
        >>> index.search(np.array([[0, 0.6, 0.8, 0]]), k=2)[0].tolist()
        [[2, 1]]
    """

    name = "ivfpq"
    shaped_by = ("n_lists", "code_bytes")

    @checked
    def __init__(
        self,
        code_bytes: PositiveInt | None = None,
        n_lists: Int32 | None = None,
        n_probe: Int32 = 32,
        refine: NonNegativeInt = 16,
        **options: Unpack[IndexOptions],
    ) -> None:
        super().__init__(n_lists, n_probe, refine, **options)
        self.code_bytes = code_bytes

    def factory_string(self, rows: int, dim: int) -> str:
        """Return the faiss factory string of an index of (rows, dim).

        Raises:
            UserError: `code_bytes` does not divide the dimension.
        """
        # np: no polysemous training, which is slow and unused.
        return f"IVF{self.lists(rows)},PQ{self.bytes_of(dim)}np"

    def bytes_of(self, dim: int) -> int:
        """Return the stored bytes per photo.

        Raises:
            UserError: `code_bytes` does not divide the dimension.
        """
        divisors = [size for size in range(1, dim + 1) if dim % size == 0]
        if self.code_bytes is None:
            return max(size for size in divisors if size <= max(1, dim // 8))
        if self.code_bytes not in divisors:
            raise UserError(
                f"search.code_bytes={self.code_bytes} does not divide the dimension {dim}. Pass "
                f"one of {', '.join(map(str, divisors))}."
            )
        return self.code_bytes

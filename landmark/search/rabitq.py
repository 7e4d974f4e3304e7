"""Inverted lists of RaBitQ codes: 1 to 9 bits per dimension."""

from typing import Annotated, Unpack

from pydantic import Field, NonNegativeInt

from landmark.search.faiss_index import IndexOptions, Int32
from landmark.search.ivf import InvertedLists
from landmark.settings import checked


class RaBitQ(InvertedLists):
    """Approximate search in inverted lists of RaBitQ codes (Gao and Long 2024; faiss RaBitQ).

    A descriptor's difference from the centroid of its list is rotated at random, and stored as the
    signs of its values, `bits` - 1 further bits of each, and a few numbers that make the estimated
    inner products unbiased. There are no codebooks to learn. The best candidates are re-scored
    exactly with the gallery's descriptors.

    Args:
        bits: Bits per dimension. A photo takes D / 8 + 8 bytes with 1, bits · D / 8 + 20 with more.
        n_lists: Number of lists. Defaults to 4 √N, at most N / 39.
        n_probe: Lists searched per query.
        refine: Candidates re-scored per result; 0 keeps the scores of the codes.
        fast_scan: Store the signs in the layout of faiss's FastScan. Measured on a CPU with AVX-512
            it is no faster with 1 bit and up to 3 times slower with more.
        **options: See `IndexOptions`.

    Source:
        Gao and Long, RaBitQ, SIGMOD 2024, arXiv 2405.12497; for more bits Gao et al., SIGMOD 2025,
        arXiv 2409.09913.

    Example:
        >>> import numpy as np
        >>> index = RaBitQ().build(np.eye(4, dtype=np.float32))
        >>> index.search(np.array([[0, 0.6, 0.8, 0]]), k=2)[0].tolist()
        [[2, 1]]
    """

    name = "rabitq"
    shaped_by = ("n_lists", "bits", "fast_scan")
    key = "search.bits"

    @checked
    def __init__(
        self,
        bits: Annotated[int, Field(ge=1, le=9)] = 1,
        n_lists: Int32 | None = None,
        n_probe: Int32 = 32,
        refine: NonNegativeInt = 16,
        fast_scan: bool = False,
        **options: Unpack[IndexOptions],
    ) -> None:
        super().__init__(n_lists, n_probe, refine, **options)
        self.bits = bits
        self.fast_scan = fast_scan

    def factory_string(self, rows: int, dim: int) -> str:
        """Return the faiss factory string of an index of (rows, dim)."""
        del dim
        kind = "RaBitQfs" if self.fast_scan else "RaBitQ"
        return f"RR,IVF{self.lists(rows)},{kind}{'' if self.bits == 1 else self.bits}"

    def bytes_of(self, dim: int) -> int:
        """Return the stored bytes per photo."""
        signs = -(-dim // 8)
        return signs + 8 if self.bits == 1 else signs + 20 + -(-dim * (self.bits - 1) // 8)

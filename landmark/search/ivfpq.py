"""Inverted lists of product-quantized descriptors: some bytes a photo."""

from typing import Any

from landmark.error import UserError
from landmark.search.indexed import Indexed, check_least
from landmark.search.ivf import lists_of


class IVFPQ(Indexed):
    """Approximate search in inverted lists of codes (Jégou, Douze, Schmid 2011; faiss IndexIVFPQ).

    A descriptor is held as `code_bytes` bytes: it is cut into as many parts, and each is written as
    the nearest of 256 centres learned by k-means. The scores of codes are coarse, so the best
    candidates are put in order by their exact scores, read from the gallery's store.

    Args:
        code_bytes: Bytes a photo, a divisor of the dimension; none: one for 8 dimensions.
        n_lists: Lists; none: 4 √N, fewer where these would hold under 39 photos.
        n_probe: Lists searched a query.
        refine: Candidates a result that are scored exactly; 0: the scores are those of the codes.
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
        code_bytes: int | None = None,
        n_lists: int | None = None,
        n_probe: int = 32,
        refine: int = 16,
        train_rows: int | None = None,
        seed: int = 0,
        index: str | None = None,
        device: str = "auto",
        block_rows: int = 65536,
    ) -> None:
        super().__init__(refine, train_rows, seed, index, device, block_rows)
        check_least("code_bytes", code_bytes, 1)
        check_least("n_lists", n_lists, 1)
        check_least("n_probe", n_probe, 1)
        self.code_bytes = code_bytes
        self.n_lists = n_lists
        self.n_probe = n_probe

    def description(self, rows: int, dim: int) -> str:
        """The faiss factory string of an index of (rows, dim).

        Raises:
            UserError: `code_bytes` does not divide the dimension.
        """
        divisors = [size for size in range(1, dim + 1) if dim % size == 0]
        if self.code_bytes is not None and self.code_bytes not in divisors:
            raise UserError(
                f"search.code_bytes={self.code_bytes} does not divide the dimension {dim}: choose "
                f"one of {', '.join(map(str, divisors))}"
            )
        size = self.code_bytes or max(n for n in divisors if n <= max(1, dim // 8))
        # np: without the polysemous training, which takes longer than all else and is not used.
        return f"IVF{lists_of(self.n_lists, rows)},PQ{size}np"

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
        return {"search": "ivfpq", "n_lists": self.n_lists, "code_bytes": self.code_bytes}

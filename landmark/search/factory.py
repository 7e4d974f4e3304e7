"""Any index that faiss can make of a line of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from landmark.search.indexed import Indexed


class Factory(Indexed):
    """Approximate search with the index of a faiss factory string, by inner product.

    Args:
        description: The factory string, such as `OPQ64_256,IVF4096,PQ64` (faiss wiki, "The index
            factory"); also its parts in a list, which needs no quotes on a command line.
        parameters: Settings of the search by their names in faiss, such as `nprobe`: 32; none:
            those of the index.
        refine: See `Indexed`.
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
        description: str | Sequence[str],
        parameters: Mapping[str, float] | None = None,
        refine: int = 0,
        train_rows: int | None = None,
        seed: int = 0,
        index: str | None = None,
        device: str = "auto",
        block_rows: int = 65536,
    ) -> None:
        super().__init__(refine, train_rows, seed, index, device, block_rows)
        parts = [description] if isinstance(description, str) else description
        self._description = ",".join(parts)
        self._parameters = dict(parameters or {})

    def description(self, rows: int, dim: int) -> str:
        """The factory string."""
        del rows, dim
        return self._description

    def parameters(self) -> str:
        """The settings of the search, as faiss writes them."""
        return ",".join(f"{name}={value}" for name, value in self._parameters.items())

    def built_with(self) -> dict[str, Any]:
        """The settings that shape the index."""
        return {"search": "factory", "description": self._description}

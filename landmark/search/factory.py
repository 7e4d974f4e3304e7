"""Any index that faiss can build from a factory string."""

from collections.abc import Mapping, Sequence
from typing import Unpack

from pydantic import NonNegativeInt

from landmark.search.faiss_index import FaissSearch, IndexOptions
from landmark.settings import checked


class Factory(FaissSearch):
    """Search with the index of a faiss factory string, by inner product.

    Args:
        description: Factory string, such as `OPQ64_256,IVF4096,PQ64` (faiss wiki, "The index
            factory"), or a list of its parts, which needs no quotes on a command line.
        parameters: Search parameters by their faiss names, such as `nprobe`: 32. Defaults to those
            of the index.
        refine: See `FaissSearch`.
        **options: See `IndexOptions`.

    Example:
        >>> import numpy as np
        >>> search = Factory(["IVF2", "Flat"], parameters={"nprobe": 2})
        >>> search.build(np.eye(4, dtype=np.float32)).search(np.eye(4)[:1], k=1)[0].tolist()
        [[0]]
    """

    name = "factory"
    shaped_by = ("description",)

    @checked
    def __init__(
        self,
        description: str | Sequence[str],
        parameters: Mapping[str, float] | None = None,
        refine: NonNegativeInt = 0,
        **options: Unpack[IndexOptions],
    ) -> None:
        super().__init__(refine, **options)
        parts = [description] if isinstance(description, str) else description
        self.description = ",".join(parts)
        self._parameters = dict(parameters or {})

    def factory_string(self, rows: int, dim: int) -> str:
        """Return the description."""
        del rows, dim
        return self.description

    def parameters(self) -> str:
        """Return the search parameters in faiss's form."""
        return ",".join(f"{name}={value}" for name, value in self._parameters.items())

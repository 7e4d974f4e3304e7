"""Any index that faiss can build from a factory string."""

import re
from collections.abc import Mapping, Sequence
from typing import Unpack

from pydantic import NonNegativeInt

from landmark.error import UserError
from landmark.search.faiss_index import FaissSearch, IndexOptions
from landmark.settings import checked

_MOST = 2**31 - 1  # faiss parses numbers as 32-bit integers
# Names with a number, and the bits of a code: IVF256, HNSW32, PQ16x8.
_NUMBERED = re.compile(r"(IVF|IMI|HNSW|NSG|OPQ|PQ|RQ|LSQ|PCA[WR]*|RR|ITQ|Pad)(\d+)(?:x(\d+))?")
_LEAST = {"HNSW": 2, "NSG": 2}  # links of a vertex; faiss crashes with fewer
_MOST_BITS = 24
# Search parameters that must be 1 or more; 0 of others, such as max_codes, means no limit.
_COUNTS = ("nprobe", "efSearch", "efConstruction", "k_factor", "k_factor_rf")


class Factory(FaissSearch):
    """Search with the index of a faiss factory string, by inner product.

    Identical descriptors are one vertex of a graph (HNSW, NSG) and are all returned, ordered by
    row. Indexes that faiss builds for L2 distances only are refused. The results of an index that
    shifts or scales descriptors, such as PCA, are re-scored exactly.

    Args:
        description: Factory string, such as `OPQ64_256,IVF4096,PQ64` (faiss wiki, "The index
            factory"), or a list of its parts, which needs no quotes on a command line.
        parameters: Search parameters by their faiss names, such as `nprobe`: 32. Defaults to those
            of the index.
        refine: See `FaissSearch`.
        **options: See `IndexOptions`.

    Raises:
        UserError: A number in the description or a parameter is out of range.

    Example:
        >>> import numpy as np
        >>> search = Factory(["IVF2", "Flat"], parameters={"nprobe": 2})
        >>> search.build(np.eye(4, dtype=np.float32)).search(np.eye(4)[:1], k=1)[0].tolist()
        [[0]]
    """

    name = "factory"
    shaped_by = ("description",)
    key = "search.description"
    widened_by = "search.parameters or search.refine"

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
        _check_description(self.description)
        for name, value in self._parameters.items():
            _check_parameter(name, value)

    def factory_string(self, rows: int, dim: int) -> str:
        """Return the description.

        Raises:
            UserError: It needs more rows than the gallery has.
        """
        del dim
        training_rows = max(256, min(rows, self.train_rows or rows))  # see `native.train`
        for name, number, bits in _NUMBERED.findall(self.description):
            centroids = int(number) if name == "IVF" else 2 ** int(bits or 0)
            if centroids > training_rows:
                raise UserError(
                    f"{self.key}: {self.description} rejects training on {training_rows:,} rows "
                    f"({name}{number}{'x' + bits if bits else ''} has {centroids} clusters). Pass "
                    f"another {self.key}."
                )
        return self.description

    def parameters(self, vectors: int) -> str:
        """Return the search parameters in faiss's form."""
        return ",".join(
            # faiss allocates efSearch candidates; more than all vectors find nothing new.
            f"{name}={min(value, max(1, vectors)) if name.endswith('efSearch') else value}"
            for name, value in self._parameters.items()
        )


def _check_description(description: str) -> None:
    """Check what faiss would crash on, or reject after a long training."""
    subject = f"search.description={description}"
    if "IDMap" in description:
        raise UserError(f"{subject}: IDMap has no use, since ids are gallery rows. Leave it out.")
    for name, number, bits in _NUMBERED.findall(description):
        least = _LEAST.get(name, 1)
        if not least <= int(number) <= _MOST:
            raise UserError(
                f"{subject}: {name}{number} is not valid. Pass {name} with a whole number >= "
                f"{least} and <= {_MOST}."
            )
        if bits and not 1 <= int(bits) <= _MOST_BITS:
            raise UserError(
                f"{subject}: {name}{number}x{bits} is not valid. Pass 1 to {_MOST_BITS} bits."
            )


def _check_parameter(name: str, value: object) -> None:
    is_count = name.removeprefix("quantizer_") in _COUNTS
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not int(is_count) <= float(value) <= _MOST:  # type: ignore[arg-type]
        raise UserError(
            f"search.parameters.{name}={value} is not valid. Pass a number >= {int(is_count)} and "
            f"<= {_MOST}."
        )

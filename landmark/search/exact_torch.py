"""Exact search with torch, on any torch device."""

from pydantic import NonNegativeInt, PositiveInt

from landmark.device import Device
from landmark.search.engine import AnyPrecision
from landmark.search.flat import Flat
from landmark.settings import checked


class ExactTorch(Flat):
    """`Flat` with engine=torch: exact search without faiss's products, on any torch device.

    Args:
        device: See `Flat`, as for the others.
        block_rows: Gallery rows converted together.
        block_queries: Queries multiplied together.
        precision: Precision of the products, before candidates are scored in float64.
        dims: First dimensions to search.
        refine: Candidates per result that are rescored with all dimensions.

    Example:
        >>> import numpy as np
        >>> index = ExactTorch("cpu").build(np.eye(3, dtype=np.float32))
        >>> index.search(np.array([[0.0, 0.6, 0.8]]), k=2)[0].tolist()
        [[2, 1]]
    """

    @checked
    def __init__(
        self,
        device: Device = "auto",
        block_rows: PositiveInt = 65536,
        block_queries: PositiveInt | None = None,
        precision: AnyPrecision = "auto",
        dims: PositiveInt | None = None,
        refine: NonNegativeInt = 8,
    ) -> None:
        super().__init__(device, block_rows, "torch", precision, block_queries, dims, refine)

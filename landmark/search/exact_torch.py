"""Exact search by inner product with torch, on any torch device."""

from typing import TYPE_CHECKING

import numpy as np
from pydantic import PositiveInt

from landmark.artifact.vectors import row_blocks
from landmark.device import Device
from landmark.search.blocks import Vectors, float32_blocks
from landmark.search.index import ExactIndex, local_torch_device
from landmark.settings import checked

if TYPE_CHECKING:
    from torch import Tensor

_VALUES_ON_DEVICE = 2**28  # of queries and their rankings: 1 GB


class ExactTorch:
    """Exact search by blocked matrix products and top-k, for machines without faiss-gpu.

    The results are those of `Flat`. The device holds up to 1 GB of queries with their rankings, a
    block of the gallery, and block_queries × block_rows products. Queries are uploaded once, the
    gallery once per 1 GB of queries.

    Args:
        device: Torch device. `auto` is the available accelerator, else the CPU.
        block_rows: Gallery rows multiplied together.
        block_queries: Queries multiplied together.

    Example:
        >>> index = ExactTorch("cpu").build(np.eye(3, dtype=np.float32))
        >>> index.search(np.array([[0.0, 0.6, 0.8]]), k=2)[0].tolist()
        [[2, 1]]
    """

    widened_by = ""

    @checked
    def __init__(
        self,
        device: Device = "auto",
        block_rows: PositiveInt = 65536,
        block_queries: PositiveInt = 512,
    ) -> None:
        self.device = device
        self.block_rows = block_rows
        self.block_queries = block_queries

    def build(self, gallery: Vectors) -> "ExactTorchIndex":
        """Return the gallery (N, D) as an index.

        Raises:
            UserError: The device is not available.
        """
        return ExactTorchIndex(gallery, self)


class ExactTorchIndex(ExactIndex):
    """A gallery searched by `ExactTorch`.

    Example:
        >>> index = ExactTorchIndex(np.eye(2, dtype=np.float32), ExactTorch("cpu"))
        >>> index.search(np.array([[0.6, 0.8]]), k=1)[0].tolist()
        [[1]]
    """

    settings: ExactTorch

    def __init__(self, gallery: Vectors, settings: ExactTorch) -> None:
        super().__init__(gallery, settings)
        self._torch_device = local_torch_device(settings.device)

    def _any_nearest(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        import torch

        rows = np.empty((len(query), k), np.int64)
        scores = np.empty((len(query), k), np.float32)
        size = max(self.settings.block_queries, _VALUES_ON_DEVICE // (query.shape[1] + 3 * k))
        with torch.inference_mode():
            for part in row_blocks(len(query), size):
                part_rows, part_scores = self._nearest_to(self._upload(query[part]), k)
                rows[part], scores[part] = part_rows.cpu().numpy(), part_scores.cpu().numpy()
        return rows, scores

    def _nearest_to(self, query: "Tensor", k: int) -> tuple["Tensor", "Tensor"]:
        """Return rows and scores (Q, k) of queries on the device."""
        import torch

        rows = torch.full((len(query), k), -1, dtype=torch.int64, device=query.device)
        scores = torch.full((len(query), k), -torch.inf, device=query.device)
        for first, block in float32_blocks(self.gallery, self.settings.block_rows):
            gallery = self._upload(block).T
            for part in row_blocks(len(query), self.settings.block_queries):
                best, at = torch.topk(query[part] @ gallery, min(k, len(block)))
                scores[part], which = torch.topk(torch.cat([scores[part], best], dim=1), k)
                rows[part] = torch.cat([rows[part], at + first], dim=1).gather(1, which)
        return rows, scores

    def _upload(self, vectors: np.ndarray) -> "Tensor":
        import torch

        return torch.tensor(vectors, device=self._torch_device)

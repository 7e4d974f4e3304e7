"""Exact search by inner product with torch: for any device that torch knows."""

from typing import TYPE_CHECKING

import numpy as np

from landmark.error import UserError
from landmark.search.blocks import float32_blocks
from landmark.search.exact import Exact

if TYPE_CHECKING:
    import torch


class ExactTorch(Exact):
    """Exact search by blocked matrix products and top-k, for machines without faiss-gpu.

    Gives what `Flat` gives. On a device at most block_queries × block_rows products and one block
    of the gallery are held.

    Args:
        device: A torch device: `cpu`, `cuda`, `cuda:1`, `mps`, …; `auto`: the accelerator that
            torch sees, else the CPU.
        block_rows: Gallery rows multiplied at once.
        block_queries: Queries multiplied at once.

    Raises:
        UserError: torch has no such device here, or a setting is out of its range.
    """

    def __init__(
        self, device: str = "auto", block_rows: int = 65536, block_queries: int = 512
    ) -> None:
        for name, value in (("block_rows", block_rows), ("block_queries", block_queries)):
            if value < 1:
                raise UserError(f"search.{name}={value} must be 1 or more")
        self.device = device
        self.block_rows = block_rows
        self.block_queries = block_queries

    def _nearest(
        self, query: np.ndarray, gallery: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        device = torch_device(self.device)
        rows = torch.full((len(query), k), -1, dtype=torch.int64)
        scores = torch.full((len(query), k), -torch.inf)
        with torch.inference_mode():
            for first, block in float32_blocks(gallery, self.block_rows):
                searched = torch.tensor(block, device=device)
                for start in range(0, len(query), self.block_queries):
                    part = slice(start, start + self.block_queries)
                    asked = torch.tensor(query[part], device=device)
                    best, at = torch.topk(asked @ searched.T, min(k, len(block)))
                    best, at = best.cpu(), at.cpu() + first
                    kept, which = torch.topk(torch.cat([scores[part], best], dim=1), k)
                    scores[part] = kept
                    rows[part] = torch.cat([rows[part], at], dim=1).gather(1, which)
        return rows.numpy(), scores.numpy()


def torch_device(name: str) -> "torch.device":
    """The torch device of a name, `auto` the accelerator that is there, else the CPU.

    Raises:
        UserError: torch has no such device here.
    """
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = str(error).partition("\n")[0]
        raise UserError(f"search.device={name}: torch cannot use it here ({line})") from error

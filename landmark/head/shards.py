"""Rows shared out among processes, and brought together again."""

import torch
import torch.distributed
from torch import Tensor


def bounds(count: int, processes: int, rank: int) -> tuple[int, int]:
    """First class of a process and the first that is no more its own; shares differ by one."""
    return rank * count // processes, (rank + 1) * count // processes


def brought_together(rows: Tensor, sizes: list[int]) -> Tensor:
    """The rows of every process, by rank, on the first one; the others get their own back.

    Args:
        rows: this process's, (R, …).
        sizes: R of every process.
    """
    rank, longest = torch.distributed.get_rank(), max(sizes)
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in sizes] if rank == 0 else None
    torch.distributed.gather(padded, gathered, dst=0)
    if gathered is None:
        return rows
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

"""The processes that share a batch's classes out among themselves."""

import torch
import torch.distributed
from torch import Tensor


class Alone:
    """One process, which has all photos and all classes."""

    count = 1
    rank = 0

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (B, …) of every process, (count · B, …) by rank."""
        return rows

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes of values of one shape."""
        return values

    def mine(self, rows: Tensor) -> Tensor:
        """This process's rows (B, …) of gathered ones (count · B, …)."""
        return rows


class Processes(Alone):
    """All processes of the run. No gradient flows through what they tell one another."""

    def __init__(self) -> None:
        self.count = torch.distributed.get_world_size()
        self.rank = torch.distributed.get_rank()

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (B, …) of every process, (count · B, …) by rank; B must be the same in all."""
        gathered = [torch.empty_like(rows) for _ in range(self.count)]
        torch.distributed.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes of values of one shape."""
        values = values.contiguous()
        torch.distributed.all_reduce(values)
        return values

    def mine(self, rows: Tensor) -> Tensor:
        """This process's rows (B, …) of gathered ones (count · B, …)."""
        return rows.chunk(self.count)[self.rank]


def processes() -> Alone:
    """All processes where there are several, else this one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Processes()
    return Alone()

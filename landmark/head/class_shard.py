"""The classes of a softmax that a process computes: all, its shard, or a random sample."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from landmark import processes
from landmark.head.products import ProductPrecision, rounded_products
from landmark.loss.margin import MarginLoss

# Share of the classes in a training step.
Ratio = Annotated[float, Field(gt=0, le=1)]
# Blocks should fit the caches of a CPU; on other devices many small kernels are slow.
_CPU_BLOCK, _DEVICE_BLOCK = 4096, 65_536


@dataclass(frozen=True)
class ClassShard:
    """The classes of the softmax that this process computes.

    Attributes:
        loss: Holds this process's centres as `weight`.
        block: Classes per block. None means 4,096 on the CPU and 65,536 on other devices.
        first: Class of the first row of `weight`.
        sampled: Classes in this step, counted from `first`, ascending, (n,). None means all.
        is_parallel: Whether the classes are sharded across the processes, each of which then
            computes its shard for the photos of all.
        precision: Precision of the products, see `rounded_products`.
    """

    loss: MarginLoss
    block: int | None = None
    first: int = 0
    sampled: Tensor | None = None
    is_parallel: bool = False
    precision: ProductPrecision = "float32"

    @property
    def count(self) -> int:
        """Number of classes of this process, sampled or not."""
        return len(self.loss.weight) // self.loss.sub_centres

    @property
    def block_size(self) -> int:
        """Classes per block."""
        default = _CPU_BLOCK if self.loss.weight.device.type == "cpu" else _DEVICE_BLOCK
        return self.block or default

    def products(self) -> AbstractContextManager[None]:
        """Return a context in which matrix products have this precision."""
        return rounded_products(self.precision, self.loss.weight.device)

    @property
    def ranks(self) -> int:
        """Number of processes that share the classes."""
        return processes.rank_and_size()[1] if self.is_parallel else 1

    def sample(self, labels: Tensor, ratio: float) -> "ClassShard":
        """Reduce the classes to a random share, in training steps; see `sample_classes`."""
        if ratio == 1 or not (self.loss.training and torch.is_grad_enabled()):
            return self
        # In one process a label that is not a class must fail in the indexing, see `check_labels`.
        columns = self.columns(self.gather(labels)) if self.is_parallel else labels
        return replace(self, sampled=sample_classes(columns, self.count, ratio))

    def smoothing(self) -> float | Tensor:
        """Return the share of the target that label smoothing gives each class of the softmax.

        It is a tensor where the number of classes is a sum over ranks, as reading it would stall a
        GPU.
        """
        if self.sampled is None:
            return self.loss.label_smoothing / self.loss.num_classes
        if self.ranks == 1:
            return self.loss.label_smoothing / len(self.sampled)
        count = self.loss.weight.new_tensor(len(self.sampled), dtype=torch.float64)
        return count.new_tensor(self.loss.label_smoothing) / self.total(count)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows (B, …) of all ranks, (ranks · B, …)."""
        return processes.gather(rows) if self.is_parallel else rows

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks of values of one shape."""
        return processes.total(values) if self.is_parallel else values

    def own(self, rows: Tensor) -> Tensor:
        """Return this rank's rows (B, …) of gathered rows (ranks · B, …)."""
        if not self.is_parallel:
            return rows
        rank, world_size = processes.rank_and_size()
        return rows.chunk(world_size)[rank]

    def columns(self, labels: Tensor) -> Tensor:
        """Return the index of each label among this process's classes, -1 for other labels."""
        rows = labels - self.first
        is_local = (rows >= 0) & (rows < self.count)
        if self.sampled is not None:  # which includes the class of every label
            rows = torch.searchsorted(self.sampled, rows)
        return torch.where(is_local, rows, -1)

    def rows(self) -> Tensor | None:
        """Return the rows of `weight` in this step, (n · K,). None means all."""
        if self.sampled is None or self.loss.sub_centres == 1:
            return self.sampled
        within = torch.arange(self.loss.sub_centres, device=self.sampled.device)
        return (self.sampled[:, None] * self.loss.sub_centres + within).flatten()


def sample_classes(columns: Tensor, count: int, ratio: float) -> Tensor:
    """Sample classes at random, always including the photos' own.

    Args:
        columns: Class of each photo, (B,); -1 where it is not one of these classes.
        count: Number of classes C.
        ratio: Share of the classes, in (0, 1]; exceeded if the photos' own classes are more.

    Returns:
        Classes, ascending, (max(⌈ratio · C⌉, own),).

    Source:
        An et al., Partial FC, 2020, arXiv 2010.05222, section 3.3.
    """
    size = math.ceil(ratio * count)
    if len(columns) >= size:  # rare: reading the number of own classes stalls a GPU
        own = columns[columns >= 0].unique()
        if len(own) >= size:
            return own
    priority = torch.rand(count, device=columns.device)
    priority = torch.cat([priority, priority.new_zeros(1)])
    priority[columns] = 2.0  # above all random ones; -1 indexes the extra last element
    return priority[:count].topk(size, sorted=False).indices.sort().values

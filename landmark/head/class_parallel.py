"""Each process holds its share of the classes."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from landmark.head.blockwise import Classes, photo_losses
from landmark.head.drawing import draw
from landmark.head.group import processes
from landmark.head.head import Head, check_block, check_ratio
from landmark.head.row_step import RowStep
from landmark.head.shards import bounds, brought_together
from landmark.loss.margin import MarginLoss


class ClassParallel(Head):
    """The softmax of `Full` over all processes, each of which has C / processes of the classes.

    What travels each step is the embeddings, their gradient and a few numbers a photo; the centres,
    their gradient and the optimizer's state stay where they are, whatever C is. The loss is exact:
    denominators are summed over all processes. Each process works through its share block by block
    like `Fused`, or with `ratio` below 1 through a random part of it like `Sampled`.

    Args:
        ratio: share of the classes that take part in a training step, in (0, 1].
        block: classes looked at in one go.

    Raises:
        UserError: a setting is out of its range.

    Source:
        An et al., Partial FC, 2020, arXiv 2010.05222, sections 3.1 and 3.3.
    """

    choice: ClassVar[str] = "class_parallel"

    def __init__(self, ratio: float = 1.0, block: int = 4096) -> None:
        check_ratio(ratio)
        check_block(self.choice, block)
        self.ratio = ratio
        self.block = block

    def is_shared_out(self) -> bool:
        """Each process holds other centres."""
        return True

    def place(self, loss: MarginLoss) -> None:
        """Leaves `loss.weight` with this process's share; it must have been the same in all."""
        if len(loss.weight) == loss.num_classes * loss.sub_centres:
            loss.weight = nn.Parameter(self.share(loss, loss.weight.detach()).clone())

    def share(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """This process's part of `rows`, which has one row for each centre there is."""
        group = processes()
        first, end = bounds(loss.num_classes, group.count, group.rank)
        return rows[first * loss.sub_centres : end * loss.sub_centres]

    def whole(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """The rows of all processes on the first one; every process must ask."""
        count = processes().count
        if count == 1:
            return rows
        ends = [bounds(loss.num_classes, count, rank) for rank in range(count)]
        sizes = [(end - first) * loss.sub_centres for first, end in ends]
        return brought_together(rows.to(loss.weight.device), sizes)

    def photo_losses(
        self, loss: MarginLoss, embeddings: Tensor, lengths: Tensor, labels: Tensor
    ) -> Tensor:
        """The cross entropy of each of this process's photos over all classes."""
        group = processes()
        first, end = bounds(loss.num_classes, group.count, group.rank)
        if len(loss.weight) != (end - first) * loss.sub_centres:
            raise RuntimeError("the centres are not shared out: call `place` in every process")
        classes = Classes(loss, group, first, None, self.block)
        if self.ratio < 1 and loss.training and torch.is_grad_enabled():
            columns = classes.columns(group.gather(labels))
            chosen = draw(columns, end - first, self.ratio)
            classes = Classes(loss, group, first, chosen, self.block)
        return photo_losses(classes, embeddings, lengths, labels)

    def follow(self, loss: MarginLoss, optimizer: Optimizer) -> None:
        """Has the optimizer step the drawn rows of `loss.weight` alone."""
        if self.ratio < 1:
            RowStep(loss.weight, optimizer)

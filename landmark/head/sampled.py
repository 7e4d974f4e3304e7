"""A random share of the classes each step."""

import math
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.optim import Optimizer

from landmark.error import UserError
from landmark.head.blockwise import ClassShard, photo_losses
from landmark.head.head import Head, Ratio
from landmark.head.row_step import RowStep
from landmark.loss.margin import MarginLoss
from landmark.settings import checked


class Sampled(Head):
    """Partial FC: the softmax runs over the batch's own classes and a random sample of the others.

    Each training step takes ⌈ratio · C⌉ classes, or the batch's own where these are more;
    evaluation takes all. Label smoothing spreads over the classes of the step. The gradient of the
    centres is sparse: rows that were not sampled have none, and the optimizer leaves them
    unchanged, momentum and weight decay included (`RowStep`); a custom training loop calls
    `register_optimizer` for that.

    Args:
        ratio: Share r of the classes.
        block: As in `Fused`.

    Source:
        An et al., Partial FC, 2020, arXiv 2010.05222; CVPR 2022, arXiv 2203.15565.
    """

    choice: ClassVar[str] = "sampled"

    @checked
    def __init__(self, ratio: Ratio = 0.1, block: PositiveInt | None = None) -> None:
        self.ratio = ratio
        self.block = block

    def check_world_size(self, world_size: int) -> None:
        """Refuse several processes: they would sample different classes of the same centres.

        Raises:
            UserError: There are several.
        """
        if world_size > 1:
            raise UserError(
                f"head=sampled supports one process, but there are {world_size}. Choose "
                f"head=class_parallel head.ratio={self.ratio}."
            )

    def photo_losses(
        self, loss: MarginLoss, embeddings: Tensor, norms: Tensor, labels: Tensor
    ) -> Tensor:
        """Compute the cross entropy of each photo over the sampled classes."""
        sampled = None
        if self.ratio < 1 and loss.training and torch.is_grad_enabled():
            sampled = sample_classes(labels, loss.num_classes, self.ratio)
        shard = ClassShard(loss, self.block, sampled=sampled)
        return photo_losses(shard, embeddings, norms, labels)

    def register_optimizer(self, loss: MarginLoss, optimizer: Optimizer) -> None:
        """Have the optimizer step only the sampled rows of `loss.weight`."""
        RowStep(loss.weight, optimizer)


def sample_classes(columns: Tensor, count: int, ratio: float) -> Tensor:
    """Sample classes at random, always including the photos' own.

    Args:
        columns: Class of each photo, (B,); -1 where it is not one of these classes.
        count: Number of classes C.
        ratio: Share of the classes, in (0, 1]; more where the photos' own are more.

    Returns:
        Classes, ascending, (max(⌈ratio · C⌉, own),).

    Source:
        An et al., Partial FC, 2020, arXiv 2010.05222, section 3.3.
    """
    size = math.ceil(ratio * count)
    if len(columns) >= size:  # rarely, as the number of own classes stalls a GPU
        own = columns[columns >= 0].unique()
        if len(own) >= size:
            return own
    priority = torch.rand(count, device=columns.device)
    priority = torch.cat([priority, priority.new_zeros(1)])
    priority[columns] = 2.0  # above all random ones; -1 is the place behind the last class
    return priority[:count].topk(size, sorted=False).indices.sort().values

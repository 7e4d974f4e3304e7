"""A random share of the classes each step."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from landmark.error import UserError
from landmark.head.blockwise import Classes, photo_losses
from landmark.head.drawing import draw
from landmark.head.group import Alone
from landmark.head.head import Head, check_block, check_ratio
from landmark.head.row_step import RowStep
from landmark.loss.margin import MarginLoss


class Sampled(Head):
    """Partial FC: the softmax runs over the batch's own classes and some drawn at random.

    Each training step takes ⌈ratio · C⌉ classes, or the batch's own where these are more; in
    evaluation it takes all. Label smoothing spreads over those that take part. The gradient of the
    centres is sparse: rows not drawn have none, and the run's optimizer leaves them as they are,
    momentum and weight decay too (`RowStep`). In a loop of one's own, `follow` tells the head of
    the optimizer.

    Args:
        ratio: share r of the classes, in (0, 1].
        block: classes looked at in one go.

    Raises:
        UserError: a setting is out of its range.

    Source:
        An et al., Partial FC, 2020, arXiv 2010.05222; CVPR 2022, arXiv 2203.15565.
    """

    choice: ClassVar[str] = "sampled"

    def __init__(self, ratio: float = 0.1, block: int = 4096) -> None:
        check_ratio(ratio)
        check_block(self.choice, block)
        self.ratio = ratio
        self.block = block

    def refuse_processes(self, count: int) -> None:
        """Several processes would draw different classes of the same centres.

        Raises:
            UserError: there are several.
        """
        if count > 1:
            raise UserError(
                f"head=sampled serves one process, and there are {count}; choose "
                f"head=class_parallel head.ratio={self.ratio}"
            )

    def photo_losses(
        self, loss: MarginLoss, embeddings: Tensor, lengths: Tensor, labels: Tensor
    ) -> Tensor:
        """The cross entropy of each photo over the classes drawn."""
        chosen = None
        if self.ratio < 1 and loss.training and torch.is_grad_enabled():
            chosen = draw(labels, loss.num_classes, self.ratio)
        classes = Classes(loss, Alone(), first=0, chosen=chosen, block=self.block)
        return photo_losses(classes, embeddings, lengths, labels)

    def follow(self, loss: MarginLoss, optimizer: Optimizer) -> None:
        """Has the optimizer step the drawn rows of `loss.weight` alone."""
        RowStep(loss.weight, optimizer)

"""All classes, block by block."""

from typing import ClassVar

from torch import Tensor

from landmark.head.blockwise import Classes, photo_losses
from landmark.head.group import Alone
from landmark.head.head import Head, check_block
from landmark.loss.margin import MarginLoss


class Fused(Head):
    """The loss and both gradients of `Full` without its memory.

    Neither the unit-length centres nor the cosines are ever there whole: beyond the gradient of the
    centres, which the optimizer needs, memory is a few blocks of (B, `block`). Cosines are computed
    twice, forward and backward, and each pass reads the centres once.

    Args:
        block: classes looked at in one go; what is fastest depends on the caches.

    Raises:
        UserError: `block` is below 1.
    """

    choice: ClassVar[str] = "fused"

    def __init__(self, block: int = 4096) -> None:
        check_block(self.choice, block)
        self.block = block

    def photo_losses(
        self, loss: MarginLoss, embeddings: Tensor, lengths: Tensor, labels: Tensor
    ) -> Tensor:
        """The cross entropy of each photo, as `MarginLoss.photo_losses` says."""
        classes = Classes(loss, Alone(), first=0, chosen=None, block=self.block)
        return photo_losses(classes, embeddings, lengths, labels)

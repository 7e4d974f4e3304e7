"""Partial FC: a random sample of the classes in each step."""

from pydantic import PositiveInt
from torch import Tensor
from torch.optim import Optimizer

from landmark.error import UserError
from landmark.head.class_shard import ClassShard, Ratio
from landmark.head.head import Head
from landmark.head.products import ProductPrecision
from landmark.head.row_step import RowStep
from landmark.loss.margin import MarginLoss
from landmark.settings import checked


class Sampled(Head):
    """Softmax over the classes of the batch and a random sample of the others (Partial FC).

    Each training step uses ⌈ratio · C⌉ classes, or the batch's own if these are more; evaluation
    uses all. Label smoothing spreads over the classes of the step. The gradient of the centres is
    sparse: the optimizer leaves rows that were not sampled unchanged, their momentum and weight
    decay included (`RowStep`). A custom training loop must call `register_optimizer` for this.

    Args:
        ratio: Share r of the classes.
        block, precision: As in `Fused`.

    Source:
        An et al., Partial FC, 2020, arXiv 2010.05222; CVPR 2022, arXiv 2203.15565.
    """

    @checked
    def __init__(
        self,
        ratio: Ratio = 0.1,
        block: PositiveInt | None = None,
        precision: ProductPrecision = "float32",
    ) -> None:
        self.ratio = ratio
        self.block = block
        self.precision = precision

    def check_world_size(self, world_size: int) -> None:
        """Reject several processes: they would sample different classes of the same centres.

        Raises:
            UserError: There are several processes.
        """
        if world_size > 1:
            raise UserError(
                f"head=sampled supports one process, but there are {world_size}. Choose "
                f"head=class_parallel head.ratio={self.ratio}."
            )

    def class_shard(self, loss: MarginLoss, labels: Tensor) -> ClassShard:
        """Return the sampled classes."""
        shard = ClassShard(loss, self.block, precision=self.precision)
        return shard.sample(labels, self.ratio)

    def register_optimizer(self, loss: MarginLoss, optimizer: Optimizer) -> None:
        """Have the optimizer step only the sampled rows of `loss.weight`."""
        RowStep(loss.weight, optimizer)

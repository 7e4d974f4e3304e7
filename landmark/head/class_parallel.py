"""Class-parallel softmax: each process has its shard of the classes."""

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer

from landmark import processes
from landmark.head.class_shard import ClassShard, Ratio
from landmark.head.head import Head
from landmark.head.products import ProductPrecision
from landmark.head.row_step import RowStep
from landmark.loss.margin import MarginLoss
from landmark.settings import checked


class ClassParallel(Head):
    """The softmax of `Full` with the classes sharded across the processes.

    Each step communicates the embeddings, their gradient and a few numbers per photo; the centres,
    their gradient and the optimizer's state stay local. The loss is exact: denominators are summed
    over all ranks. Each rank computes its shard block by block like `Fused`, or a random part of it
    like `Sampled` if `ratio` is below 1.

    Args:
        ratio: Share of the classes in a training step.
        block, precision: As in `Fused`.

    Source:
        An et al., Partial FC, 2020, arXiv 2010.05222, sections 3.1 and 3.3.
    """

    @checked
    def __init__(
        self,
        ratio: Ratio = 1.0,
        block: PositiveInt | None = None,
        precision: ProductPrecision = "float32",
    ) -> None:
        self.ratio = ratio
        self.block = block
        self.precision = precision

    def is_sharded(self) -> bool:
        """Return True."""
        return True

    def shard_weights(self, loss: MarginLoss) -> None:
        """Reduce `loss.weight`, which must be equal on all ranks, to this rank's shard."""
        if len(loss.weight) == loss.num_classes * loss.sub_centres:
            loss.weight = nn.Parameter(self.shard(loss, loss.weight.detach()).clone())

    def shard(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """Return this rank's shard of `rows`, which has one row for each centre of all ranks."""
        classes = _classes(loss, *processes.rank_and_size())
        return rows[classes.start * loss.sub_centres : classes.stop * loss.sub_centres]

    def gather(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """Gather the shards of all ranks on rank 0: the inverse of `shard`. Every rank calls it."""
        _, world_size = processes.rank_and_size()
        if world_size == 1:
            return rows
        shards = [_classes(loss, rank, world_size) for rank in range(world_size)]
        counts = [(shard.stop - shard.start) * loss.sub_centres for shard in shards]
        return processes.gather_on_rank_zero(rows.to(loss.weight.device), counts)

    def class_shard(self, loss: MarginLoss, labels: Tensor) -> ClassShard:
        """Return this rank's classes, for the photos of all ranks."""
        classes = _classes(loss, *processes.rank_and_size())
        if len(loss.weight) != (classes.stop - classes.start) * loss.sub_centres:
            raise RuntimeError("the centres are not sharded: call `shard_weights` on every rank")
        shard = ClassShard(
            loss, self.block, classes.start, is_parallel=True, precision=self.precision
        )
        return shard.sample(labels, self.ratio)

    def register_optimizer(self, loss: MarginLoss, optimizer: Optimizer) -> None:
        """Have the optimizer step only the sampled rows of `loss.weight`."""
        if self.ratio < 1:
            RowStep(loss.weight, optimizer)


def _classes(loss: MarginLoss, rank: int, world_size: int) -> slice:
    """Return the classes of a rank."""
    return processes.shard(loss.num_classes, rank, world_size)

"""Base of the heads."""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from landmark.error import UserError
from landmark.loss.margin import MarginLoss

# Share of the classes in a training step.
Ratio = Annotated[float, Field(gt=0, le=1)]


class Head:
    """A way to compute a margin loss over many classes; the loss keeps the class centres.

    A run calls `attach` when the loss is constructed, `shard_weights` once its process group is
    initialised, and `register_optimizer` when the optimizer is constructed.
    """

    choice: ClassVar[str]

    def attach(self, loss: nn.Module) -> None:
        """Compute the photos' losses of the margin losses that `loss` is or contains.

        Raises:
            UserError: There is none, or it needs all cosines of a batch at once.
        """
        margins = margin_losses(loss)
        if not margins:
            raise UserError(
                f"head={self.choice}: {_choice(loss)} is not a softmax over cosines to class "
                "centres. Choose head=full."
            )
        for margin in margins:
            if margin.needs_all_cosines:
                raise UserError(
                    f"head={self.choice}: {_choice(margin)} needs all cosines of a batch at once. "
                    "Choose head=full."
                )
            margin.head = self

    def photo_losses(
        self, loss: MarginLoss, embeddings: Tensor, norms: Tensor, labels: Tensor
    ) -> Tensor:
        """Compute the cross entropy of each photo, as `MarginLoss.photo_losses`."""
        raise NotImplementedError

    def check_world_size(self, world_size: int) -> None:
        """Raise a UserError where the head does not support so many processes."""

    def is_sharded(self) -> bool:
        """Whether each rank has centres of its own, which DDP must then ignore."""
        return False

    def shard_weights(self, loss: MarginLoss) -> None:
        """Reduce `loss.weight` to this rank's shard; further calls do nothing."""

    def shard(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """Return this rank's shard of `rows`, which has one row for each centre of all ranks."""
        del loss
        return rows

    def gather(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """Gather the shards of all ranks on rank 0: the inverse of `shard`. Every rank calls it."""
        del loss
        return rows

    def register_optimizer(self, loss: MarginLoss, optimizer: Optimizer) -> None:
        """Hook into the steps of the optimizer of `loss.weight`, where the head needs to."""


def margin_losses(loss: nn.Module) -> list[MarginLoss]:
    """Return the margin losses that `loss` is or contains."""
    return [module for module in loss.modules() if isinstance(module, MarginLoss)]


def _choice(loss: nn.Module) -> str:
    """The override that chose the loss; its module has the same name."""
    return f"loss={type(loss).__module__.rpartition('.')[2]}"

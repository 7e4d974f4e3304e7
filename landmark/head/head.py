"""What every head does."""

from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from landmark.error import UserError
from landmark.loss.margin import MarginLoss


class Head:
    """Computes a margin loss over many classes in its own way; the centres stay the loss's.

    A run calls `serve` when the loss is made, `place` once its processes have found one another,
    and `follow` when the optimizer is made.
    """

    choice: ClassVar[str]

    def serve(self, loss: nn.Module) -> None:
        """Takes over from the margin loss that `loss` is or holds.

        Raises:
            UserError: there is none, or it has to see all cosines of a batch at once.
        """
        served = margin_losses(loss)
        if not served:
            raise UserError(
                f"head={self.choice}: {_name(loss)} is no softmax over cosines to class centres; "
                "choose head=full"
            )
        for margin in served:
            if margin.needs_all_cosines:
                raise UserError(
                    f"head={self.choice}: {_name(margin)} has to see all cosines of a batch at "
                    "once; choose head=full"
                )
            margin.head = self

    def photo_losses(
        self, loss: MarginLoss, embeddings: Tensor, lengths: Tensor, labels: Tensor
    ) -> Tensor:
        """The cross entropy of each photo, as `MarginLoss.photo_losses` says."""
        raise NotImplementedError

    def refuse_processes(self, count: int) -> None:
        """Raises a UserError where the head cannot serve `count` processes."""

    def place(self, loss: MarginLoss) -> None:
        """Leaves `loss.weight` with what this process holds of it; further calls do nothing."""

    def share(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """This process's part of `rows`, which has one row for each centre there is."""
        del loss
        return rows

    def whole(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """What `share` was taken from, on the first process; every process must ask."""
        del loss
        return rows

    def is_shared_out(self) -> bool:
        """Whether each process holds other centres, which DDP then must leave alone."""
        return False

    def follow(self, loss: MarginLoss, optimizer: Optimizer) -> None:
        """Learns of the optimizer of `loss.weight`."""


def margin_losses(loss: nn.Module) -> list[MarginLoss]:
    """The margin losses that `loss` is or holds."""
    return [module for module in loss.modules() if isinstance(module, MarginLoss)]


def check_block(choice: str, block: int) -> None:
    """Refuses a block without classes.

    Raises:
        UserError: names the key.
    """
    if block < 1:
        raise UserError(f"head.block={block}: head={choice} takes 1 class or more at once")


def check_ratio(ratio: float) -> None:
    """Refuses a share of the classes outside (0, 1].

    Raises:
        UserError: names the key.
    """
    if not 0 < ratio <= 1:
        raise UserError(f"head.ratio={ratio}: give a share of the classes above 0, at most 1")


def _name(loss: nn.Module) -> str:
    """The word that chose the loss: its file's name."""
    return f"loss={type(loss).__module__.rpartition('.')[2]}"

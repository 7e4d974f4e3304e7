"""Base of the heads."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from landmark.error import UserError
from landmark.head.blockwise import photo_losses
from landmark.head.class_shard import ClassShard
from landmark.head.products import ProductPrecision, check_products
from landmark.loss.margin import MarginLoss
from landmark.loss.nested import losses_by_dim


class Head:
    """Computes a margin loss over many classes, whose centres remain parameters of the loss.

    A run calls `attach` when the loss is constructed, `shard_weights` once its process group is
    initialised, and `register_optimizer` when the optimizer is constructed.

    Attributes:
        precision: Precision of the products, see `Fused`.
    """

    precision: ProductPrecision = "float32"

    def attach(self, loss: nn.Module) -> None:
        """Compute the cross entropies of `loss`, or of the margin losses that it contains.

        Raises:
            UserError: There is no margin loss, or it needs the complete cosine matrix.
        """
        margins = margin_losses(loss)
        if not margins:
            _, alone = losses_by_dim(loss, 0)[0]
            raise UserError(
                f"head={choice(self)}: loss={choice(alone)} is not a softmax over cosines to class "
                "centres. Choose head=full."
            )
        for margin in margins:
            if margin.needs_all_cosines:
                raise UserError(
                    f"head={choice(self)}: loss={choice(margin)} needs the complete cosine "
                    "matrix. Choose head=full."
                )
            margin.head = self

    def photo_losses(
        self, loss: MarginLoss, embeddings: Tensor, norms: Tensor, labels: Tensor
    ) -> Tensor:
        """Compute the cross entropy of each photo, as `MarginLoss.photo_losses`."""
        return photo_losses(self.class_shard(loss, labels), embeddings, norms, labels)

    def class_shard(self, loss: MarginLoss, labels: Tensor) -> ClassShard:
        """Return the classes that this process computes for photos with these labels, (B,)."""
        raise NotImplementedError

    def check_world_size(self, world_size: int) -> None:
        """Raise a UserError if the head does not support this number of processes."""

    def check_device(self, device: torch.device) -> None:
        """Raise a UserError if the device has no products of the head's precision."""
        check_products(self.precision, device)

    def is_sharded(self) -> bool:
        """Return whether the centres are sharded across ranks, so that DDP must ignore them."""
        return False

    def shard_weights(self, loss: MarginLoss) -> None:
        """Reduce `loss.weight` to this rank's shard; further calls do nothing."""

    def shard(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """Return this rank's shard of `rows`, which has one row for each centre of all ranks."""
        return rows

    def gather(self, loss: MarginLoss, rows: Tensor) -> Tensor:
        """Gather the shards of all ranks on rank 0: the inverse of `shard`. Every rank calls it."""
        return rows

    def register_optimizer(self, loss: MarginLoss, optimizer: Optimizer) -> None:
        """Hook into the optimizer of `loss.weight` if the head needs it; here a no-op."""


def margin_losses(loss: nn.Module) -> list[MarginLoss]:
    """Return the margin losses that `loss` is or contains."""
    return [module for module in loss.modules() if isinstance(module, MarginLoss)]


def choice(part: object) -> str:
    """Return the name that selects a loss or head: that of its module and YAML."""
    return type(part).__module__.rpartition(".")[2]

"""What the pair losses share: the batch of all processes, and that it has something to compare."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from landmark.error import UserError
from landmark.loss.cross_entropy import check_labels, full_precision
from landmark.loss.processes import joined_batch, joined_labels


class PairLoss(nn.Module):
    """A loss that compares the photos of a batch with one another; it has no class centres.

    A loss of this family is one file: subclass, and write `of_batch`. Of several processes each
    computes the loss of the batch that their parts make together, with the gradients of one process
    with that batch, see `joined_batch`. Computed in float32 or wider with autocast switched off.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar.

    Raises:
        UserError: A label on the CPU is no class, or no two photos of the batch share a class.
    """

    # Whether a batch must hold two photos of one landmark: a sampler has to see to it.
    needs_pairs = True

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of the whole batch: embeddings (N, D), labels (N,), result a scalar."""
        raise NotImplementedError

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch: embeddings (B, D), labels (B,), result a scalar."""
        check_labels(labels, self.num_classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            (embeddings,) = full_precision(embeddings)
            embeddings, labels = joined_batch(embeddings), joined_labels(labels)
            if self.needs_pairs:
                self._check_pairs(labels)
            return self.of_batch(embeddings, labels)

    def _check_pairs(self, labels: Tensor) -> None:
        in_order = labels.sort().values
        if not bool((in_order[1:] == in_order[:-1]).any()):
            raise UserError(
                f"{type(self).__name__} compares photos of one landmark, and the batch of "
                f"{len(labels)} has no two: choose sampler=per_class"
            )


class LibraryPairLoss(PairLoss):
    """A pair loss that pytorch-metric-learning computes.

    Where no more than one pair of each kind is left of a batch, that library gives 0.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        library_loss: Its loss.
        miner: Its choice of the pairs or triplets that count; None: all.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        library_loss: Callable[..., Tensor],
        miner: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        self.library_loss = library_loss
        self.miner = miner

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of the pairs of the batch that the miner chooses."""
        chosen = None if self.miner is None else self.miner(embeddings, labels)
        return self.library_loss(embeddings, labels, chosen)

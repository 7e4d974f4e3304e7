"""Base of the pair losses: the joint batch of all ranks, checked to contain a pair."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from landmark import processes
from landmark.error import UserError
from landmark.loss.base import Loss


class PairLoss(Loss):
    """A loss that compares the photos of a batch with each other; it has no class centres.

    A new loss of this family is one file: a subclass that overrides `batch_loss`. It takes
    `embedding_dim` and `num_classes` besides its own options. Each rank computes the loss of the
    joint batch; the gradients equal those of one process with that batch, see `join_batch`.

    Args:
        embedding_dim: Embedding length D.
        num_classes: Number of classes C.

    Attributes:
        needs_pairs: Whether each batch must contain two photos of one landmark, which requires a
            sampler that guarantees them.

    Shape:
        embeddings (B, D), of any norm; labels (B,) int64; output a scalar.

    Raises:
        UserError: A label on the CPU is not a class, or no two photos of the batch share a class.

    Example:
        >>> import torch
        >>> class MeanCosine(PairLoss):
        ...     def batch_loss(self, embeddings, labels):
        ...         return (embeddings @ embeddings.T)[labels[:, None] != labels].mean()
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
        >>> round(MeanCosine(2, 2)(embeddings, torch.tensor([0, 0, 1])).item(), 4)
        0.6
    """

    needs_pairs: ClassVar[bool] = True

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of the joint batch: embeddings (N, D), labels (N,) → scalar."""
        raise NotImplementedError

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of the joint batch of all ranks."""
        embeddings, labels = join_batch(embeddings, labels)
        if self.needs_pairs and len(labels.unique()) == len(labels):
            raise UserError(
                f"{type(self).__name__} compares photos of one landmark, but no landmark has two "
                f"photos in the batch of {len(labels)}. Choose sampler=per_class."
            )
        return self.batch_loss(embeddings, labels)


class LibraryPairLoss(PairLoss):
    """A pair loss that pytorch-metric-learning computes.

    The library returns 0 where a batch has at most one pair of each kind.

    Args:
        embedding_dim: Embedding length D.
        num_classes: Number of classes C.
        library_loss: The library's loss.
        miner: The library's selection of pairs or triplets. None means all.

    Attributes:
        takes_references: Whether the loss can compare a batch with other embeddings, as `XBM` does.

    Example:
        >>> import torch
        >>> from pytorch_metric_learning.losses import ContrastiveLoss
        >>> loss = LibraryPairLoss(2, 2, ContrastiveLoss(pos_margin=0, neg_margin=1))
        >>> embeddings, labels = torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 1, 0, 1])
        >>> round(loss(embeddings, labels).item(), 4)  # positives at 1.4142, negatives at 0
        2.4142
    """

    takes_references: ClassVar[bool] = True

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

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of the pairs that the miner selects."""
        pairs = None if self.miner is None else self.miner(embeddings, labels)
        return self.library_loss(embeddings, labels, pairs)


def join_batch(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Join the embeddings (B, D) and labels (B,) of all ranks; no-op in a single process.

    The rows of the ranks alternate. Each rank computes the loss of the joint batch; gradients flow
    to its own rows, times the number of ranks. DistributedDataParallel's mean over the ranks is
    then the gradient of that one loss. The backward pass needs no communication.

    Returns:
        (world_size · B, D) and (world_size · B,).

    Example:
        >>> import torch
        >>> embeddings, labels = join_batch(torch.ones(2, 3), torch.tensor([0, 1]))
        >>> embeddings.shape, labels.tolist()
        (torch.Size([2, 3]), [0, 1])
    """
    _, world_size = processes.rank_and_size()
    if world_size == 1:
        return embeddings, labels
    joint_labels = processes.gather(labels).view(-1, len(labels)).T.reshape(-1)
    return join_rows(embeddings), joint_labels


def join_rows(rows: Tensor) -> Tensor:
    """Join rows (B, D) of all ranks as `join_batch` does: (world_size · B, D).

    Example:
        >>> import torch
        >>> join_rows(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    _, world_size = processes.rank_and_size()
    return rows if world_size == 1 else _Joined.apply(rows)


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:  # noqa: ANN401
        ctx.rank, ctx.world_size = processes.rank_and_size()
        ranks = processes.gather(own).view(ctx.world_size, *own.shape)
        return ranks.transpose(0, 1).reshape(-1, own.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        return gradient[ctx.rank :: ctx.world_size] * ctx.world_size

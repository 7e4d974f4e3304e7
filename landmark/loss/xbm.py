"""Cross-batch memory: pairs with the embeddings of earlier batches (arXiv 1912.06798)."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from landmark.error import UserError
from landmark.loss.circle import Circle
from landmark.loss.contrastive import Contrastive
from landmark.loss.multi_similarity import MultiSimilarity
from landmark.loss.pairs import LibraryPairLoss, PairLoss
from landmark.loss.supcon import SupCon
from landmark.loss.triplet import Triplet
from landmark.settings import checked

_PAIR_LOSSES: dict[str, type[LibraryPairLoss]] = {
    "circle": Circle,
    "contrastive": Contrastive,
    "multi_similarity": MultiSimilarity,
    "supcon": SupCon,
    "triplet": Triplet,
}


class XBM(PairLoss):
    """A pair loss between a batch and a memory of batches (Wang et al. 2020, arXiv 1912.06798).

    The embeddings of each batch enter a queue of the latest `memory_size` and are not recomputed.
    The loss is computed over the pairs of a batch photo and another photo in the queue
    (algorithm 1). No gradient flows to the queue. The queue is part of a checkpoint, and the same
    on all ranks.

    Args:
        pair_loss: Name of the pair loss, or its constructor, which is called with `embedding_dim`
            and `num_classes`, such as a node of conf/loss.
        memory_size: Embeddings in the queue, at least a joint batch of all ranks.
        options: Options of the pair loss, such as {temperature: 0.07}.

    Raises:
        UserError: An option is unknown or out of range, the pair loss cannot use a memory, a label
            on the CPU is not a class, or a batch is larger than the queue.

    Example:
        >>> import torch
        >>> loss = XBM(2, 2, pair_loss="triplet", memory_size=4, options={"margin": 0.1})
        >>> loss(torch.eye(2), torch.tensor([0, 1])).item()  # no two photos of one landmark yet
        0.0
        >>> round(loss(torch.eye(2), torch.tensor([1, 0])).item(), 4)  # d+ = 1.4142, d- = 0
        1.5142
    """

    needs_pairs = False  # the queue has positives where the batch has none
    memory: Tensor
    memory_labels: Tensor
    seen: Tensor

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        pair_loss: Literal["circle", "contrastive", "multi_similarity", "supcon", "triplet"]
        | Callable[..., nn.Module] = "contrastive",
        memory_size: PositiveInt = 1024,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        make = _PAIR_LOSSES[pair_loss] if isinstance(pair_loss, str) else pair_loss
        _check_options(make, options or {})
        inner = make(embedding_dim=embedding_dim, num_classes=num_classes, **(options or {}))
        if not isinstance(inner, LibraryPairLoss) or not inner.takes_references:
            raise UserError(
                f"XBM: {type(inner).__name__} cannot compare a batch with a memory. "
                f"Pass pair_loss={', '.join(_PAIR_LOSSES)} or a subclass of one."
            )
        self.pair_loss = inner
        self.register_buffer("memory", torch.zeros(memory_size, embedding_dim))
        self.register_buffer("memory_labels", torch.zeros(memory_size, dtype=torch.int64))
        self.register_buffer("seen", torch.tensor(0))  # embeddings enqueued so far

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Enqueue the batch and compute the loss of its pairs with the queue."""
        from pytorch_metric_learning.utils import loss_and_miner_utils

        slots = self._enqueue(embeddings, labels)
        filled = min(int(self.seen), len(self.memory))
        # The next batch may overwrite rows before this backward.
        queue = self.memory[:filled].to(embeddings.dtype, copy=True)
        queue_labels = self.memory_labels[:filled]
        miner = self.pair_loss.miner
        if miner is None:
            pairs = loss_and_miner_utils.get_all_pairs_indices(labels, queue_labels)
        else:
            pairs = miner(embeddings, labels, queue, queue_labels)
        anchor, positive, *negatives = pairs
        is_other = slots[anchor] != positive  # not the photo itself
        if len(negatives) == 1:  # triplets: (anchor, positive, negative)
            negatives = [negatives[0][is_other]]
        pairs = (anchor[is_other], positive[is_other], *negatives)
        return self.pair_loss.library_loss(embeddings, labels, pairs, queue, queue_labels)

    @torch.no_grad()
    def _enqueue(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Overwrite the oldest embeddings with the batch; return its slots in the queue, (N,)."""
        if len(labels) > len(self.memory):
            raise UserError(
                f"loss.memory_size={len(self.memory)} is below the {len(labels)} photos of a "
                "batch. Pass a multiple of the batch size."
            )
        slots = torch.arange(len(labels), device=labels.device) + self.seen
        slots = slots % len(self.memory)
        self.memory[slots] = embeddings.to(self.memory.dtype)
        self.memory_labels[slots] = labels
        self.seen += len(labels)
        return slots


def _check_options(make: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    names = set(inspect.signature(make).parameters) - {"embedding_dim", "num_classes"}
    for name in options:
        if name not in names:
            raise UserError(
                f"XBM: options.{name} is unknown to the pair loss. "
                f"It takes: {', '.join(sorted(names))}."
            )

"""Cross-batch memory: pairs with the embeddings of the batches before (arXiv 1912.06798)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from landmark.error import UserError
from landmark.loss.circle import Circle
from landmark.loss.contrastive import Contrastive
from landmark.loss.multi_similarity import MultiSimilarity
from landmark.loss.pairs import LibraryPairLoss, PairLoss
from landmark.loss.supcon import SupCon
from landmark.loss.triplet import Triplet

_PAIR_LOSSES: dict[str, type[LibraryPairLoss]] = {
    "circle": Circle,
    "contrastive": Contrastive,
    "multi_similarity": MultiSimilarity,
    "supcon": SupCon,
    "triplet": Triplet,
}


class XBM(PairLoss):
    """A pair loss between a batch and a memory of batches (Wang et al. 2020, arXiv 1912.06798).

    The embeddings of each batch go into a queue of the latest `memory_size`, as they are, and are
    not computed anew; the loss is that of the pairs of a photo of the batch with those in the queue
    (algorithm 1), itself left out. No gradient flows to the queue. The queue is part of a
    checkpoint, and the same on all processes.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        pair_loss: contrastive, triplet, multi_similarity, circle or supcon.
        memory_size: Embeddings in the queue, at least a batch of all processes.
        options: Settings of the pair loss, as {temperature: 0.07}.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar.

    Raises:
        UserError: A setting is out of its range, a label on the CPU is no class, or a batch is
            larger than the queue.
    """

    # The queue has positives where the batch has none.
    needs_pairs = False
    memory: Tensor
    memory_labels: Tensor
    seen: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        pair_loss: str = "contrastive",
        memory_size: int = 1024,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        if pair_loss not in _PAIR_LOSSES:
            raise UserError(f"loss.pair_loss={pair_loss}: choose {', '.join(_PAIR_LOSSES)}")
        if memory_size < 1:
            raise UserError(f"loss.memory_size={memory_size} must be 1 or more")
        try:
            self.pair_loss = _PAIR_LOSSES[pair_loss](embedding_dim, num_classes, **(options or {}))
        except TypeError as error:
            raise UserError(f"loss.options: {error}; see conf/loss/{pair_loss}.yaml") from None
        self.register_buffer("memory", torch.zeros(memory_size, embedding_dim))
        self.register_buffer("memory_labels", torch.zeros(memory_size, dtype=torch.int64))
        self.register_buffer("seen", torch.tensor(0))  # embeddings that ever came

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of the pairs of the batch with the queue, which it joins first."""
        from pytorch_metric_learning.utils import loss_and_miner_utils as pairs_of

        places = self._remember(embeddings, labels)
        filled = min(int(self.seen), len(self.memory))
        # The next batch overwrites rows before this one goes backward, if gradients accumulate.
        others = self.memory[:filled].to(embeddings.dtype, copy=True)
        other_labels = self.memory_labels[:filled]
        miner = self.pair_loss.miner
        if miner is None:
            chosen = pairs_of.get_all_pairs_indices(labels, other_labels)
        else:
            chosen = miner(embeddings, labels, others, other_labels)
        anchor, positive, *negatives = chosen
        others_only = places[anchor] != positive
        if len(negatives) == 1:  # triplets; else pairs, of which the positive ones may be a photo's
            negatives = [negatives[0][others_only]]
        chosen = (anchor[others_only], positive[others_only], *negatives)
        return self.pair_loss.library_loss(embeddings, labels, chosen, others, other_labels)

    @torch.no_grad()
    def _remember(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Puts the batch in the place of the oldest; its places in the queue (N,)."""
        if len(labels) > len(self.memory):
            raise UserError(
                f"loss.memory_size={len(self.memory)} is below the {len(labels)} photos of a "
                "batch: give a multiple of it"
            )
        places = torch.arange(len(labels), device=labels.device) + self.seen
        places = places % len(self.memory)
        self.memory[places] = embeddings.to(self.memory.dtype)
        self.memory_labels[places] = labels
        self.seen += len(labels)
        return places

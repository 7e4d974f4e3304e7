"""Differentiable recall@k (Patel et al. 2022, arXiv 2108.11179)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from landmark.loss.pairs import PairLoss
from landmark.loss.smooth_rank import smooth_ranks
from landmark.settings import checked


class RecallAtK(PairLoss):
    """Recall@k surrogate (Patel et al. 2022, arXiv 2108.11179, equations 6 and 7), without mixup.

    Each photo of the batch is a query, and all others are ranked for it by cosine. With ranks
    counted by sigmoids of `temperature`, recall@k is the sum over its positives of
    sigmoid((k - rank) / place_temperature), divided by min(k, number of positives) as in the
    authors' code. The loss is 1 minus the mean over the values of k and over the photos with
    positives. It needs large batches; with several ranks the joint batch counts.

    Args:
        k: Values of k.
        temperature: Temperature of the sigmoids of cosines (the paper's tau_2).
        place_temperature: Temperature of the sigmoid of ranks (tau_1).

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> loss = RecallAtK(embedding_dim=2, num_classes=2, k=[1])
        >>> round(loss(embeddings, torch.tensor([0, 0, 1])).item(), 4)  # 1 - sigmoid(1 - 2)
        0.7311
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        k: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (1, 2, 4, 8, 16),
        temperature: PositiveFloat = 0.01,
        place_temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        self.k = tuple(k)
        self.temperature = temperature
        self.place_temperature = place_temperature

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute 1 minus the mean smoothed recall of the batch's photos."""
        rank, _, positives = smooth_ranks(embeddings, labels, self.temperature)
        queries = (1 / positives).sum()
        recalls = [
            (torch.sigmoid((k - rank) / self.place_temperature) / positives.clamp(max=k)).sum()
            for k in self.k
        ]
        return 1 - torch.stack(recalls).mean() / queries

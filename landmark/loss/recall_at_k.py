"""Recall@k with slopes (Patel et al. 2022, arXiv 2108.11179)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from landmark.error import UserError
from landmark.loss.pairs import PairLoss
from landmark.loss.smooth_rank import smooth_ranks, sums_of_queries


class RecallAtK(PairLoss):
    """Recall@k surrogate (Patel et al. 2022, arXiv 2108.11179, equations 6 and 7), without mixup.

    Each photo of the batch is a query and the others are ranked for it by cosine. With places
    counted by sigmoids of `temperature`, recall@k is the sum over its positives of
    sigmoid((k - place) / place_temperature), over min(k, number of positives) as in the authors'
    code. The loss is 1 less the mean over the values of k and over the photos with positives. It
    wants large batches: several processes bring their photos together.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        k: Values of k, each 1 or more.
        temperature: Of the sigmoids of cosines (the paper's tau_2), above 0.
        place_temperature: Of the sigmoid of places (tau_1), above 0.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar.

    Raises:
        UserError: A setting is out of its range, a label on the CPU is no class, or no two photos
            of the batch share a class.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        k: Sequence[int] = (1, 2, 4, 8, 16),
        temperature: float = 0.01,
        place_temperature: float = 1.0,
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        if not k or min(k) < 1:
            raise UserError(f"loss.k={list(k)}: give values of 1 or more")
        if temperature <= 0 or place_temperature <= 0:
            raise UserError(
                f"loss.temperature={temperature} and loss.place_temperature={place_temperature} "
                "must be above 0"
            )
        self.k = tuple(k)
        self.temperature = temperature
        self.place_temperature = place_temperature

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """1 less the mean smoothed recall of the batch's photos."""
        query, place, _ = smooth_ranks(embeddings, labels, self.temperature)
        positives = torch.bincount(query, minlength=len(labels))
        asks = positives > 0
        recalls = []
        for k in self.k:
            found = torch.sigmoid((k - place) / self.place_temperature)
            sums = sums_of_queries(found, query, len(labels))[asks]
            recalls.append((sums / positives[asks].clamp(max=k)).mean())
        return 1 - torch.stack(recalls).mean()

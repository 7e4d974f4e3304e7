"""Smooth-AP: average precision with slopes (Brown et al. 2020, arXiv 2007.12163)."""

import torch
from torch import Tensor

from landmark.error import UserError
from landmark.loss.pairs import PairLoss
from landmark.loss.smooth_rank import smooth_ranks, sums_of_queries


class SmoothAP(PairLoss):
    """Smooth-AP (Brown et al. 2020, arXiv 2007.12163, equations 5 to 7).

    Each photo of the batch is a query and the others are ranked for it by cosine, the photo itself
    left out. Its average precision is the mean over its positives of place among the positives /
    place among all, where places are counted by sigmoids instead of steps; the loss is 1 less the
    mean over the photos with positives. Landmarks may have any number of photos in the batch.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        temperature: Of the sigmoids, above 0.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar in [0, 1).

    Raises:
        UserError: A setting is out of its range, a label on the CPU is no class, or no two photos
            of the batch share a class.
    """

    def __init__(self, embedding_dim: int, num_classes: int, temperature: float = 0.01) -> None:
        super().__init__(embedding_dim, num_classes)
        if temperature <= 0:
            raise UserError(f"loss.temperature={temperature} must be above 0")
        self.temperature = temperature

    def of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """1 less the mean smoothed average precision of the batch's photos."""
        query, among_all, among_positives = smooth_ranks(embeddings, labels, self.temperature)
        positives = torch.bincount(query, minlength=len(labels))
        precision = sums_of_queries(among_positives / among_all, query, len(labels))
        asks = positives > 0
        return 1 - (precision[asks] / positives[asks]).mean()

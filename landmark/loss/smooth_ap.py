"""Smooth-AP: differentiable average precision (Brown et al. 2020, arXiv 2007.12163)."""

from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional

from landmark.loss.pairs import PairLoss
from landmark.loss.smooth_rank import smooth_ranks
from landmark.settings import checked


class SmoothAP(PairLoss):
    """Smooth-AP (Brown et al. 2020, arXiv 2007.12163, equations 5 to 7).

    Each photo of the batch is a query, and all others are ranked for it by cosine. Its average
    precision is the mean over its positives of rank among the positives / rank among all, where
    ranks are counted by sigmoids instead of steps; the loss is 1 minus the mean over the photos
    with positives, in [0, 1). Landmarks can have any number of photos in the batch.

    Args:
        temperature: Temperature of the sigmoids.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> loss = SmoothAP(embedding_dim=2, num_classes=2)
        >>> loss(embeddings, torch.tensor([0, 0, 1])).item()  # each positive has rank 2
        0.5
    """

    @checked
    def __init__(
        self, embedding_dim: int, num_classes: int, temperature: PositiveFloat = 0.01
    ) -> None:
        super().__init__(embedding_dim, num_classes)
        self.temperature = temperature

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute 1 minus the mean smoothed average precision of the batch's photos."""
        unit = functional.normalize(embeddings)
        ranks = smooth_ranks(unit @ unit.T, labels, self.temperature)
        positives = ranks.positives[ranks.query]
        queries = (1 / positives).sum()
        return 1 - (ranks.among_positives / ranks.among_all / positives).sum() / queries

"""Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362)."""

from pydantic import PositiveFloat

from landmark.loss.pairs import LibraryPairLoss
from landmark.settings import checked


class SupCon(LibraryPairLoss):
    """Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, equation 2).

    For each photo the mean over its positives p of -log(exp(s_p / temperature) / sum over all other
    photos of exp(s / temperature)) with s the cosines; the mean over the photos with positives.
    The loss of a batch of a single landmark is 0.

    Args:
        temperature: Divisor of the cosines.

    Example:
        >>> import torch
        >>> embeddings, labels = torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
        >>> loss = SupCon(embedding_dim=2, num_classes=2, temperature=1.0)
        >>> round(loss(embeddings, labels).item(), 4)  # -log(e / (e + 1 + 1))
        0.5514
    """

    @checked
    def __init__(
        self, embedding_dim: int, num_classes: int, temperature: PositiveFloat = 0.1
    ) -> None:
        from pytorch_metric_learning import losses

        super().__init__(embedding_dim, num_classes, losses.SupConLoss(temperature=temperature))

"""Multi-similarity loss (Wang et al. 2019, arXiv 1904.06627)."""

from pydantic import PositiveFloat

from landmark.loss.pairs import LibraryPairLoss
from landmark.settings import checked


class MultiSimilarity(LibraryPairLoss):
    """Multi-similarity loss with its mining (Wang et al. 2019, arXiv 1904.06627, section 3.3).

    Mining (equations 10 to 12): a positive pair counts if its cosine is below the photo's highest
    negative plus `mining_margin`, a negative pair if its cosine is above the photo's lowest
    positive minus `mining_margin`. The loss of a photo (equation 15) is log(1 + sum of
    exp(-alpha * (s - base)) over its positives) / alpha + log(1 + sum of exp(beta * (s - base))
    over its negatives) / beta; the mean over all photos.

    Args:
        alpha: Sharpness for the positives.
        beta: Sharpness for the negatives.
        base: Reference cosine of both; 0.5 in the authors' code.
        mining_margin: The paper's epsilon.

    Example:
        >>> import torch
        >>> embeddings, labels = torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
        >>> loss = MultiSimilarity(embedding_dim=2, num_classes=2)
        >>> loss(embeddings, labels).item()  # no pair is hard
        0.0
        >>> round(loss(embeddings, torch.tensor([0, 1, 0, 1])).item(), 3)
        1.157
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        alpha: PositiveFloat = 2.0,
        beta: PositiveFloat = 50.0,
        base: float = 0.5,
        mining_margin: float = 0.1,
    ) -> None:
        from pytorch_metric_learning import losses, miners

        super().__init__(
            embedding_dim,
            num_classes,
            losses.MultiSimilarityLoss(alpha=alpha, beta=beta, base=base),
            miners.MultiSimilarityMiner(epsilon=mining_margin),
        )

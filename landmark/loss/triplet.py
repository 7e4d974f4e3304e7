"""Triplet loss on the hardest positive and negative of each photo (arXiv 1703.07737)."""

from pydantic import NonNegativeFloat

from landmark.loss.pairs import LibraryPairLoss
from landmark.settings import checked


class Triplet(LibraryPairLoss):
    """Batch-hard triplet loss (Hermans et al. 2017, arXiv 1703.07737, equation 5).

    With d+ the distance of a photo to the farthest photo of its landmark and d- to the nearest of
    another, its loss is max(0, margin + d+ - d-), or with `soft` log(1 + exp(margin + d+ - d-)).
    The loss of the batch is the mean over all photos with both. Distances are between unit-length
    embeddings.

    Args:
        margin: Required difference d- - d+.
        soft: Use the smooth form, whose gradient never vanishes.

    Example:
        >>> import torch
        >>> embeddings, labels = torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
        >>> loss = Triplet(embedding_dim=2, num_classes=2, margin=0.2)
        >>> loss(embeddings, labels).item()  # d+ = 0, d- = 1.4142
        0.0
        >>> round(loss(embeddings, torch.tensor([0, 1, 0, 1])).item(), 4)  # d+ = 1.4142, d- = 0
        1.6142
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: NonNegativeFloat = 0.2,
        soft: bool = False,
    ) -> None:
        from pytorch_metric_learning import losses, miners, reducers

        super().__init__(
            embedding_dim,
            num_classes,
            losses.TripletMarginLoss(
                margin=margin, smooth_loss=soft, reducer=reducers.MeanReducer()
            ),
            miners.BatchHardMiner(),
        )

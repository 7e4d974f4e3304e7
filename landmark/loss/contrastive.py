"""Contrastive loss: pulls photos of a landmark together and pushes all others apart."""

from pydantic import NonNegativeFloat

from landmark.error import UserError
from landmark.loss.pairs import LibraryPairLoss
from landmark.settings import checked


class Contrastive(LibraryPairLoss):
    """Contrastive loss (Hadsell et al. 2006, CVPR) of distances between unit-length embeddings.

    The mean of max(0, d - positive_margin) over the pairs of one landmark plus the mean of
    max(0, negative_margin - d) over all other pairs, each averaged over its non-zero terms, as in
    pytorch-metric-learning (the paper squares both).

    Args:
        positive_margin: Distance up to which a positive pair has no loss.
        negative_margin: Distance from which a negative pair has no loss.

    Example:
        >>> import torch
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> loss = Contrastive(embedding_dim=2, num_classes=2)
        >>> value = loss(embeddings, torch.tensor([0, 0, 1]))
        >>> round(value.item(), 4)  # 1.4142 + (0.1056 + 0.3675) / 2
        1.6508
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        positive_margin: NonNegativeFloat = 0.0,
        negative_margin: float = 1.0,
    ) -> None:
        from pytorch_metric_learning import losses

        if positive_margin >= negative_margin:
            raise UserError(
                f"loss.positive_margin={positive_margin} is not below "
                f"loss.negative_margin={negative_margin}. Pass positive_margin < negative_margin."
            )
        library_loss = losses.ContrastiveLoss(
            pos_margin=positive_margin, neg_margin=negative_margin
        )
        super().__init__(embedding_dim, num_classes, library_loss)

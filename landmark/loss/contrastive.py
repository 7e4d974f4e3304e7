"""Contrastive loss: photos of a landmark pulled together, others pushed away."""

from landmark.error import UserError
from landmark.loss.pairs import LibraryPairLoss


class Contrastive(LibraryPairLoss):
    """Contrastive loss (Hadsell et al. 2006, CVPR), of distances between unit-length embeddings.

    The mean of max(0, d - positive_margin) over the pairs of one landmark plus the mean of
    max(0, negative_margin - d) over the other pairs, each over those that are not 0, as
    pytorch-metric-learning has it (the paper squares both).

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        positive_margin: Distance below which a pair of one landmark counts no more.
        negative_margin: Distance from which a pair of two landmarks counts no more.

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
        positive_margin: float = 0.0,
        negative_margin: float = 1.0,
    ) -> None:
        from pytorch_metric_learning import losses

        if not 0 <= positive_margin < negative_margin:
            raise UserError(
                f"loss.positive_margin={positive_margin} must be 0 or more and below "
                f"loss.negative_margin={negative_margin}"
            )
        super().__init__(
            embedding_dim,
            num_classes,
            losses.ContrastiveLoss(pos_margin=positive_margin, neg_margin=negative_margin),
        )

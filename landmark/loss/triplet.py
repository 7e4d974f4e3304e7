"""Triplet loss on the hardest positive and negative of each photo (arXiv 1703.07737)."""

from landmark.error import UserError
from landmark.loss.pairs import LibraryPairLoss


class Triplet(LibraryPairLoss):
    """Batch-hard triplet loss (Hermans et al. 2017, arXiv 1703.07737, equation 5).

    For each photo of the batch, with d+ the distance to the farthest photo of its landmark and d-
    to the nearest of another: max(0, margin + d+ - d-), or with `soft` log(1 + exp(margin + d+ -
    d-)); the mean over all photos that have both. Distances are between unit-length embeddings.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        margin: How much farther the nearest of another landmark should be.
        soft: The smooth form, which never stops pulling.

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
        margin: float = 0.2,
        soft: bool = False,
    ) -> None:
        from pytorch_metric_learning import losses, miners, reducers

        if margin < 0:
            raise UserError(f"loss.margin={margin} must be 0 or more")
        super().__init__(
            embedding_dim,
            num_classes,
            losses.TripletMarginLoss(
                margin=margin, smooth_loss=soft, reducer=reducers.MeanReducer()
            ),
            miners.BatchHardMiner(),
        )

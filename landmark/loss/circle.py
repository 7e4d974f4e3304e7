"""Circle loss (Sun et al. 2020, arXiv 2002.10857)."""

from landmark.error import UserError
from landmark.loss.pairs import LibraryPairLoss


class Circle(LibraryPairLoss):
    """Circle loss over the pairs of a batch (Sun et al. 2020, arXiv 2002.10857, equations 6 and 8).

    For each photo log(1 + sum over its negatives of exp(scale * [s + margin]+ * (s - margin)) * sum
    over its positives of exp(-scale * [1 + margin - s]+ * (s - 1 + margin))), where no gradient
    flows through the factors in brackets; the mean over the photos with both. The defaults are the
    paper's for fine-grained retrieval.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        margin: Relaxation m; 0 to 1.
        scale: Factor gamma.

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
        margin: float = 0.4,
        scale: float = 80.0,
    ) -> None:
        from pytorch_metric_learning import losses

        if not 0 <= margin < 1:
            raise UserError(f"loss.margin={margin} must be in [0, 1)")
        if scale <= 0:
            raise UserError(f"loss.scale={scale} must be above 0")
        super().__init__(embedding_dim, num_classes, losses.CircleLoss(m=margin, gamma=scale))

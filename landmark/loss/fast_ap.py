"""FastAP: average precision by histograms of distances (Cakir et al. 2019, CVPR)."""

from landmark.error import UserError
from landmark.loss.pairs import LibraryPairLoss


class FastAP(LibraryPairLoss):
    """FastAP (Cakir et al. 2019, CVPR, Deep Metric Learning to Rank, equations 6 and 7).

    For each photo the batch is ranked by squared distance between unit-length embeddings, in
    `bins` soft bins of [0, 4]; with h+ the positives and h all photos of a bin and capitals their
    running sums, the average precision is the mean over the positives of h+ * H+ / H. The loss is 1
    less its mean over the photos with positives.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        bins: Of the histogram.

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
        bins: int = 10,
    ) -> None:
        from pytorch_metric_learning import losses

        if bins < 1:
            raise UserError(f"loss.bins={bins} must be 1 or more")
        super().__init__(embedding_dim, num_classes, losses.FastAPLoss(num_bins=bins))

"""FastAP: average precision by histograms of distances (Cakir et al. 2019, CVPR)."""

from typing import Annotated, ClassVar

from pydantic import Field

from landmark.loss.pairs import LibraryPairLoss
from landmark.settings import checked


class FastAP(LibraryPairLoss):
    """FastAP (Cakir et al. 2019, CVPR, Deep Metric Learning to Rank, equations 6 and 7).

    Each photo ranks the batch by squared distance between unit-length embeddings, in `bins` soft
    bins of [0, 4]. With h+ the positives and h all photos of a bin, and H+ and H their
    cumulative sums, the average precision is the mean over the positives of h+ * H+ / H. The loss
    is 1 minus its mean over the photos with positives.

    Args:
        bins: Number of histogram bins.

    Example:
        >>> import torch
        >>> embeddings, swapped = torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 1, 0, 1])
        >>> loss = FastAP(embedding_dim=2, num_classes=2)
        >>> round(loss(embeddings, swapped).item(), 3)  # H+ / H = 1 / 3 at every positive
        0.667
    """

    takes_references: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        bins: Annotated[int, Field(gt=0, le=10_000)] = 10,
    ) -> None:
        from pytorch_metric_learning import losses

        super().__init__(embedding_dim, num_classes, losses.FastAPLoss(num_bins=bins))

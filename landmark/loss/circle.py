"""Circle loss (Sun et al. 2020, arXiv 2002.10857)."""

from typing import Annotated

from pydantic import Field, PositiveFloat

from landmark.loss.pairs import LibraryPairLoss
from landmark.settings import checked


class Circle(LibraryPairLoss):
    """Circle loss over the pairs of a batch (Sun et al. 2020, arXiv 2002.10857, equations 6 and 8).

    For each photo log(1 + sum over its negatives of exp(scale * [s + margin]+ * (s - margin)) * sum
    over its positives of exp(-scale * [1 + margin - s]+ * (s - 1 + margin))), where no gradient
    flows through the factors in brackets; the mean over the photos with both. The defaults are the
    paper's for fine-grained retrieval.

    Args:
        margin: Relaxation m.
        scale: Factor gamma.

    Example:
        >>> import torch
        >>> embeddings, labels = torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
        >>> swapped = torch.tensor([0, 1, 0, 1])
        >>> loss = Circle(embedding_dim=2, num_classes=2, margin=0.4, scale=1.0)
        >>> [round(loss(embeddings, y).item(), 3) for y in (labels, swapped)]
        [0.897, 2.121]
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: Annotated[float, Field(ge=0, lt=1)] = 0.4,
        scale: PositiveFloat = 80.0,
    ) -> None:
        from pytorch_metric_learning import losses

        super().__init__(embedding_dim, num_classes, losses.CircleLoss(m=margin, gamma=scale))

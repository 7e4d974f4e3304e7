"""CosFace: an additive margin on the cosine (Wang et al. 2018, arXiv 1801.09414)."""

from typing import Unpack

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.settings import checked


class CosFace(MarginLoss):
    """Large-margin cosine loss (Wang et al. 2018, arXiv 1801.09414, equation 4).

    The target's logit is scale * (cos(theta) - margin), all others are scale * cos(theta_j).

    Args:
        margin: Subtracted from the target's cosine.
        scale: Factor s on the cosines.

    Example:
        >>> import torch
        >>> loss = CosFace(embedding_dim=2, num_classes=2, margin=0.5, scale=1.0)
        >>> loss.weight.data = torch.eye(2)
        >>> embeddings = torch.tensor([[3.0, 4.0]])  # cosines 0.6 and 0.8
        >>> round(loss(embeddings, torch.tensor([0])).item(), 4)  # logits 0.1 and 0.8
        1.1032
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: NonNegativeFloat = 0.3,
        scale: PositiveFloat = 30.0,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, **softmax)
        self.margin = margin

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta) - margin."""
        return cosine - self.margin

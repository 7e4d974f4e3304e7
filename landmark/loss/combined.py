"""SphereFace's, ArcFace's and CosFace's margins combined (Deng et al. 2019, arXiv 1801.07698)."""

from typing import Unpack

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from landmark.loss.angle import Angle, angle_of, monotonic_cosine
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.settings import checked


class CombinedMargin(MarginLoss):
    """Combined margins (Deng et al. 2019, arXiv 1801.07698, equation 4).

    The target's logit is scale * (cos(m1 * theta + m2) - m3). Where m1 * theta + m2 exceeds pi, the
    cosine keeps falling as SphereFace's psi does.

    Args:
        m1: Factor on the target's angle.
        m2: Angle in radians added to it.
        m3: Subtracted from the cosine.
        scale: Factor s on the cosines.

    Example:
        >>> import torch
        >>> loss = CombinedMargin(2, 2, m1=1.0, m2=0.3, m3=0.2, scale=1.0)
        >>> loss.weight.data = torch.eye(2)
        >>> embeddings = torch.tensor([[3.0, 4.0]])  # cosines 0.6 and 0.8
        >>> round(loss(embeddings, torch.tensor([0])).item(), 4)  # logits 0.1368 and 0.8
        1.0788
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        m1: PositiveFloat = 1.0,
        m2: Angle = 0.3,
        m3: NonNegativeFloat = 0.2,
        scale: PositiveFloat = 64.0,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, **softmax)
        self.m1, self.m2, self.m3 = m1, m2, m3

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Return cos(m1 * theta + m2) - m3."""
        return monotonic_cosine(self.m1 * angle_of(cosine) + self.m2) - self.m3

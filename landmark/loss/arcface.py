"""ArcFace: an additive margin on the angle (Deng et al. 2019, arXiv 1801.07698)."""

from typing import Unpack

import torch
from pydantic import PositiveFloat
from torch import Tensor

from landmark.loss.angle import Angle, shift_angle, shift_angle_monotonic
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.settings import checked


class ArcFace(MarginLoss):
    """Additive angular margin loss (Deng et al. 2019, arXiv 1801.07698, equation 3).

    With theta the angle between an embedding and its class centre, the target's logit is
    scale * cos(theta + margin), all others are scale * cos(theta_j).

    cos(theta + margin) would rise again where theta + margin > pi. There it continues as
    cos(theta) - margin * sin(margin), as in the authors' code.

    Args:
        margin: Angle in radians added to the target's.
        scale: Factor s on the cosines.
        easy_margin: Apply the margin only where theta < pi / 2.

    Example:
        >>> import torch
        >>> loss = ArcFace(embedding_dim=2, num_classes=2, margin=0.3, scale=1.0)
        >>> loss.weight.data = torch.eye(2)
        >>> embeddings = torch.tensor([[3.0, 4.0]])  # cosines 0.6 and 0.8
        >>> round(loss(embeddings, torch.tensor([0])).item(), 4)  # logits 0.3368 and 0.8
        0.9513
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: Angle = 0.3,
        scale: PositiveFloat = 30.0,
        easy_margin: bool = False,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, **softmax)
        self.margin = margin
        self.easy_margin = easy_margin

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta + margin), continued so that it never rises."""
        if self.easy_margin:
            return torch.where(cosine > 0, shift_angle(cosine, self.margin), cosine)
        return shift_angle_monotonic(cosine, self.margin)

"""CurricularFace: hard negatives gain weight as training proceeds (Huang et al. 2020)."""

from typing import Annotated, Unpack

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from landmark.loss.angle import Angle, shift_angle_monotonic
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.processes import gather
from landmark.settings import checked


class CurricularFace(MarginLoss):
    """CurricularFace (Huang et al. 2020, arXiv 2004.00288, equations 3 and 8 to 10).

    The target has ArcFace's margin. A cosine to another class that exceeds the target's after its
    margin is hard, and becomes cos(theta_j) * (t + cos(theta_j)); all others are unchanged. t
    starts at 0. Each training batch updates it with the mean cosine r to the target classes:
    t = momentum * r + (1 - momentum) * t. It is a float32 buffer, saved with the weights; all ranks
    update it from their joint batch.

    Args:
        margin: Angle in radians added to the target's.
        scale: Factor s on the cosines.
        momentum: Weight of a batch in the running mean t.

    Example:
        >>> import torch
        >>> loss = CurricularFace(embedding_dim=2, num_classes=3)
        >>> _ = loss.t.fill_(0.5)
        >>> cosines, target = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.5]])
        >>> loss.adjust_negatives(cosines, target).tolist()  # 0.75 * (0.5 + 0.75)
        [[0.25, 0.9375]]
    """

    changes_negatives = True
    t: Tensor

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: Angle = 0.5,
        scale: PositiveFloat = 64.0,
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.01,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, **softmax)
        self.margin = margin
        self.momentum = momentum
        self.register_buffer("t", torch.tensor(0.0, dtype=torch.float32))

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta + margin), continued as in ArcFace; while training, update t first."""
        if self.training:
            self.t.lerp_(gather(cosine.detach()).mean().to(self.t), self.momentum)
        return shift_angle_monotonic(cosine, self.margin)

    def adjust_negatives(self, cosines: Tensor, target: Tensor) -> Tensor:
        """Return cos(theta_j) * (t + cos(theta_j)) where cos(theta_j) exceeds the target."""
        t = self.t.clone()  # the next batch may change the buffer before this backward
        return torch.where(cosines > target, cosines * (t + cosines), cosines)

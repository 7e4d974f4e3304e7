"""CurricularFace: hard negatives count more as training goes on (Huang et al. 2020)."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from landmark.error import UserError
from landmark.loss.angle import check_margin, plus_angle
from landmark.loss.margin import MarginLoss
from landmark.loss.processes import of_all_processes


class CurricularFace(MarginLoss):
    """CurricularFace (Huang et al. 2020, arXiv 2004.00288, equations 3 and 8 to 10).

    The target has ArcFace's margin. A cosine to another class that is above the target's with its
    margin is hard, and becomes cos(theta_j) * (t + cos(theta_j)); the others stay as they are.
    t starts at 0 and follows, while training, the mean cosine r of a batch to its own classes:
    t = momentum * r + (1 - momentum) * t. It is a float32 buffer, saved with the weights; of
    several processes all follow the batch that their parts make together.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        margin: Angle in radians added to the target's; 0 to pi.
        scale: Factor s on the cosines.
        momentum: Share of a batch in t, in [0, 1].
        label_smoothing: Share of the target spread evenly over all classes.
        class_weights: null, inverse, inverse_sqrt or effective, see `PhotoWeighting`.
        focal: Exponent gamma of the focal modulation, see `PhotoWeighting`.
        class_counts: Train photos of each class, (C,); needed for `class_weights`.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar.

    Raises:
        UserError: A setting is out of its range.
    """

    t: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: float = 0.5,
        scale: float = 64.0,
        momentum: float = 0.01,
        *,
        label_smoothing: float = 0.0,
        class_weights: str | None = None,
        focal: float = 0.0,
        class_counts: ArrayLike | None = None,
    ) -> None:
        super().__init__(
            embedding_dim,
            num_classes,
            scale,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            focal=focal,
            class_counts=class_counts,
        )
        check_margin(margin)
        if not 0 <= momentum <= 1:
            raise UserError(f"loss.momentum={momentum} must be in [0, 1]")
        self.margin = margin
        self.momentum = momentum
        self.register_buffer("t", torch.tensor(0.0, dtype=torch.float32))

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """cos(theta + margin), continued as in ArcFace; moves t first while training."""
        del labels, lengths
        if self.training:
            self.t.lerp_(of_all_processes(cosine.detach()).mean().to(self.t), self.momentum)
        return plus_angle(cosine, self.margin)

    def of_others(self, cosines: Tensor, target: Tensor) -> Tensor:
        """cos(theta_j) * (t + cos(theta_j)) where cos(theta_j) is above the target."""
        t = self.t.clone()  # the next batch moves the buffer before this one goes backward
        return torch.where(cosines > target, cosines * (t + cosines), cosines)

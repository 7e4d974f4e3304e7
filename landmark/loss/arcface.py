"""ArcFace: an additive margin on the angle (Deng et al. 2019, arXiv 1801.07698)."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from landmark.loss.angle import check_margin, plus_angle, widened
from landmark.loss.margin import MarginLoss


class ArcFace(MarginLoss):
    """Additive angular margin loss (Deng et al. 2019, arXiv 1801.07698, equation 3).

    With theta the angle between an embedding and its class centre, the target's logit is
    scale * cos(theta + margin); the other logits are scale * cos(theta_j).

    cos(theta + margin) would rise again where theta + margin > pi. There the authors' code, and
    this one, goes on with cos(theta) - margin * sin(margin), which falls with theta, as it must.
    `easy_margin` puts the margin on angles below pi / 2 only and leaves the rest as they are.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        margin: Angle in radians added to the target's; 0 to pi.
        scale: Factor s on the cosines.
        easy_margin: Put the margin only on targets nearer than a right angle.
        label_smoothing: Share of the target spread evenly over all classes.
        class_weights: null, inverse, inverse_sqrt or effective, see `PhotoWeighting`.
        focal: Exponent gamma of the focal modulation, see `PhotoWeighting`.
        class_counts: Train photos of each class, (C,); needed for `class_weights`.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar.

    Raises:
        UserError: A setting is out of its range.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: float = 0.3,
        scale: float = 30.0,
        easy_margin: bool = False,
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
        self.margin = margin
        self.easy_margin = easy_margin

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """cos(theta + margin) of the target's cosine, continued where it would rise again."""
        del labels, lengths
        if self.easy_margin:
            return torch.where(cosine > 0, widened(cosine, self.margin), cosine)
        return plus_angle(cosine, self.margin)

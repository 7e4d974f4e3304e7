"""CosFace: an additive margin on the cosine (Wang et al. 2018, arXiv 1801.09414)."""

from numpy.typing import ArrayLike
from torch import Tensor

from landmark.error import UserError
from landmark.loss.margin import MarginLoss


class CosFace(MarginLoss):
    """Large margin cosine loss (Wang et al. 2018, arXiv 1801.09414, equation 4).

    The target's logit is scale * (cos(theta) - margin); the other logits are scale * cos(theta_j).

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        margin: Taken off the target's cosine; 0 or more.
        scale: Factor s on the cosines.
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
        if margin < 0:
            raise UserError(f"loss.margin={margin} must be 0 or more")
        self.margin = margin

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """cos(theta) - margin of the target's cosine."""
        del labels, lengths
        return cosine - self.margin

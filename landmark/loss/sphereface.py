"""SphereFace: a factor on the angle (Liu et al. 2017, arXiv 1704.08063)."""

from numpy.typing import ArrayLike
from torch import Tensor

from landmark.error import UserError
from landmark.loss.angle import angle_of, falling_cosine
from landmark.loss.margin import MarginLoss


class SphereFace(MarginLoss):
    """Multiplicative angular margin loss (Liu et al. 2017, arXiv 1704.08063, equation 7).

    Embeddings are of unit length and times a scale, as in SphereFace Revived (Liu et al. 2022,
    arXiv 2109.05565). The target's logit is scale * psi(theta) with
    psi(theta) = (-1)^k * cos(margin * theta) - 2 * k where margin * theta lies from k * pi to
    (k + 1) * pi, which falls with theta all the way. The
    default factor is that of 2022; 4, that of 2017, trains only with a slowly rising share of it.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        margin: Factor m on the target's angle, 1 or more.
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
        margin: float = 1.5,
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
        if margin < 1:
            raise UserError(f"loss.margin={margin} must be 1 or more: a factor on the angle")
        self.margin = margin

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """psi(theta) of the target's cosine."""
        del labels, lengths
        return falling_cosine(self.margin * angle_of(cosine))

"""SphereFace's, ArcFace's and CosFace's margins at once (Deng et al. 2019, arXiv 1801.07698)."""

from numpy.typing import ArrayLike
from torch import Tensor

from landmark.error import UserError
from landmark.loss.angle import angle_of, check_margin, falling_cosine
from landmark.loss.margin import MarginLoss


class CombinedMargin(MarginLoss):
    """Combined margins (Deng et al. 2019, arXiv 1801.07698, equation 4).

    The target's logit is scale * (cos(m1 * theta + m2) - m3). Where m1 * theta + m2 is beyond pi,
    the cosine goes on falling as SphereFace's psi does.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        m1: Factor on the target's angle, above 0.
        m2: Angle in radians added to it; 0 to pi.
        m3: Taken off the cosine; 0 or more.
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
        m1: float = 1.0,
        m2: float = 0.3,
        m3: float = 0.2,
        scale: float = 64.0,
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
        if m1 <= 0:
            raise UserError(f"loss.m1={m1} must be above 0: a factor on the angle")
        check_margin(m2, "m2")
        if m3 < 0:
            raise UserError(f"loss.m3={m3} must be 0 or more")
        self.m1, self.m2, self.m3 = m1, m2, m3

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """cos(m1 * theta + m2) - m3 of the target's cosine."""
        del labels, lengths
        return falling_cosine(self.m1 * angle_of(cosine) + self.m2) - self.m3

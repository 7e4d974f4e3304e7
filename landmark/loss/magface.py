"""MagFace: the length of the embedding tells the quality of its photo (Meng et al. 2021)."""

from numpy.typing import ArrayLike
from torch import Tensor

from landmark.error import UserError
from landmark.loss.angle import check_margin, plus_angle
from landmark.loss.margin import MarginLoss


class MagFace(MarginLoss):
    """MagFace (Meng et al. 2021, arXiv 2103.06627, equation 3 and section 3.3).

    With a the length of an embedding, cut to [shortest, longest], the target has ArcFace's margin
    of m(a), which rises linearly from `smallest_margin` to `largest_margin`; and the loss of the
    photo has strength * g(a) added, g(a) = 1 / a + a / longest^2, which falls with a: embeddings
    grow long where the photo can bear the larger margin. Gradients flow through the lengths.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        shortest: Length l_a of the smallest margin, above 0.
        longest: Length u_a of the largest margin.
        smallest_margin: Angle l_m in radians.
        largest_margin: Angle u_m in radians.
        strength: Factor lambda_g of what is added.
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
        shortest: float = 10.0,
        longest: float = 110.0,
        smallest_margin: float = 0.45,
        largest_margin: float = 0.8,
        strength: float = 35.0,
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
        if not 0 < shortest < longest:
            raise UserError(
                f"loss.shortest={shortest} must be above 0 and below loss.longest={longest}"
            )
        check_margin(smallest_margin, "smallest_margin")
        check_margin(largest_margin, "largest_margin")
        if strength < 0:
            raise UserError(f"loss.strength={strength} must be 0 or more")
        self.shortest, self.longest = shortest, longest
        self.smallest_margin, self.largest_margin = smallest_margin, largest_margin
        self.strength = strength

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """cos(theta + m(length)), continued as in ArcFace."""
        del labels
        place = (self._cut(lengths) - self.shortest) / (self.longest - self.shortest)
        margin = self.smallest_margin + (self.largest_margin - self.smallest_margin) * place
        return plus_angle(cosine, margin)

    def penalty(self, lengths: Tensor) -> Tensor:
        """The regulariser strength * g(length), (B,) to (B,)."""
        lengths = self._cut(lengths)
        return self.strength * (1 / lengths + lengths / self.longest**2)

    def _cut(self, lengths: Tensor) -> Tensor:
        return lengths.clamp(self.shortest, self.longest)

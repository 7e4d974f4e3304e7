"""Sub-centre ArcFace: several centres a class (Deng et al. 2020, ECCV)."""

from numpy.typing import ArrayLike
from torch import Tensor

from landmark.loss.angle import check_margin, plus_angle
from landmark.loss.margin import MarginLoss


class SubCenterArcFace(MarginLoss):
    """Sub-centre ArcFace (Deng et al. 2020, ECCV, Boosting Face Recognition by Noisy Web Faces).

    Each class has K centres, and the cosine to a class is that to the nearest of them, for the own
    class as for the others; on it ArcFace's margin. Interiors, old prints and wrongly labelled
    photos of a landmark gather at a centre of their own.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        margin: Angle in radians added to the target's; 0 to pi.
        scale: Factor s on the cosines.
        sub_centres: Centres K a class.
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
        margin: float = 0.5,
        scale: float = 64.0,
        sub_centres: int = 3,
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
            sub_centres=sub_centres,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            focal=focal,
            class_counts=class_counts,
        )
        check_margin(margin)
        self.margin = margin

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """cos(theta + margin) of the cosine to the nearest own centre, as in ArcFace."""
        del labels, lengths
        return plus_angle(cosine, self.margin)

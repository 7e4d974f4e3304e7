"""ArcFace whose margin is larger for landmarks of few photos (Ha et al. 2020, arXiv 2010.05350)."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from landmark.error import UserError
from landmark.loss.angle import check_margin, plus_angle
from landmark.loss.margin import MarginLoss
from landmark.loss.weighting import checked_counts


class DynamicMargin(MarginLoss):
    """ArcFace with a margin for each class (Ha et al. 2020, arXiv 2010.05350, section 3.2).

    The loss of the third place of the GLDv2 recognition competition of 2020 and of the winners of
    2021. A class of n train photos has the margin a * n^power + b, with a and b such that the class
    of the most photos has `smallest_margin` and that of the fewest `largest_margin`. Where all
    classes have as many photos, all have the mean of the two. The winners' code calls this loss
    ArcFaceLossAdaptiveMargin; its cosines come from sub-centres, which are an option here.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        smallest_margin: Angle in radians, of the class of the most photos.
        largest_margin: Angle in radians, of the class of the fewest.
        power: Exponent of the number of photos, below 0.
        scale: Factor s on the cosines.
        sub_centres: Centres K a class, see `SubCenterArcFace`.
        label_smoothing: Share of the target spread evenly over all classes.
        class_weights: null, inverse, inverse_sqrt or effective, see `PhotoWeighting`.
        focal: Exponent gamma of the focal modulation, see `PhotoWeighting`.
        class_counts: Train photos of each class, (C,); the margins come from them.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar.

    Raises:
        UserError: A setting is out of its range, or a class has no photo.
    """

    margins: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        smallest_margin: float = 0.05,
        largest_margin: float = 0.5,
        power: float = -0.25,
        scale: float = 80.0,
        sub_centres: int = 3,
        *,
        label_smoothing: float = 0.0,
        class_weights: str | None = None,
        focal: float = 0.0,
        class_counts: ArrayLike,
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
        check_margin(smallest_margin, "smallest_margin")
        check_margin(largest_margin, "largest_margin")
        if smallest_margin > largest_margin:
            raise UserError(
                f"loss.smallest_margin={smallest_margin} is above "
                f"loss.largest_margin={largest_margin}"
            )
        if power >= 0:
            raise UserError(f"loss.power={power} must be below 0")
        powers = checked_counts(class_counts, num_classes, "loss=dynamic_margin") ** power
        low, high = powers.min(), powers.max()
        place = torch.where(high > low, (powers - low) / (high - low), 0.5)
        margins = smallest_margin + (largest_margin - smallest_margin) * place  # (C,)
        # Made again from the counts in each run, so no part of a checkpoint.
        self.register_buffer("margins", margins.float(), persistent=False)

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """cos(theta + margin of the class), continued as in ArcFace."""
        del lengths
        return plus_angle(cosine, self.margins.to(cosine.dtype)[labels])

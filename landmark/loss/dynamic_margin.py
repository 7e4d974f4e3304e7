"""ArcFace with a larger margin for landmarks with few photos (Ha et al. 2020, arXiv 2010.05350)."""

from typing import Annotated, Unpack

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from landmark.error import UserError
from landmark.loss.angle import Angle, shift_angle_monotonic
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.loss.weighting import validated_counts
from landmark.settings import checked


class DynamicMargin(MarginLoss):
    """ArcFace with a margin for each class (Ha et al. 2020, arXiv 2010.05350, section 3.2).

    The loss of the third place of the GLDv2 recognition competition of 2020 and of the winners of
    2021. A class with n training photos has the margin a * n^power + b, with a and b such that the
    class with the most photos has `smallest_margin` and the class with the fewest `largest_margin`.
    If all classes have the same number of photos, the margin is the mean of the two. The winners'
    code calls this loss ArcFaceLossAdaptiveMargin and uses sub-centres. `class_counts` is required.

    Args:
        smallest_margin: Angle in radians for the class with the most photos.
        largest_margin: Angle in radians for the class with the fewest photos.
        power: Exponent of the number of photos.
        scale: Factor s on the cosines.
        sub_centres: Centres K of each class, see `SubCenterArcFace`.

    Raises:
        UserError: An option is out of range, or a class has no photo.

    Example:
        >>> loss = DynamicMargin(8, 3, class_counts=[1, 16, 81])
        >>> [round(margin, 4) for margin in loss.margins.tolist()]
        [0.5, 0.1625, 0.05]
    """

    margins: Tensor

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        smallest_margin: Angle = 0.05,
        largest_margin: Angle = 0.5,
        power: Annotated[float, Field(lt=0)] = -0.25,
        scale: PositiveFloat = 80.0,
        sub_centres: Annotated[int, Field(gt=0, le=1000)] = 3,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, sub_centres=sub_centres, **softmax)
        if smallest_margin > largest_margin:
            raise UserError(
                f"loss.smallest_margin={smallest_margin} exceeds "
                f"loss.largest_margin={largest_margin}. Pass smallest_margin <= largest_margin."
            )
        counts = validated_counts(softmax.get("class_counts"), num_classes, "loss=dynamic_margin")
        powers = counts**power
        low, high = powers.min(), powers.max()
        position = torch.where(high > low, (powers - low) / (high - low), 0.5)  # 0 … 1, (C,)
        margins = smallest_margin + (largest_margin - smallest_margin) * position  # (C,)
        # Recomputed from the counts in each run, so not part of a checkpoint.
        self.register_buffer("margins", margins.float(), persistent=False)

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta + margin of the class), continued as in ArcFace."""
        return shift_angle_monotonic(cosine, self.margins.to(cosine.dtype)[labels])

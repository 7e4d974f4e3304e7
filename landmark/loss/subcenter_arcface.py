"""Sub-centre ArcFace: several centres for each class (Deng et al. 2020, ECCV)."""

from typing import Annotated, Unpack

from pydantic import Field, PositiveFloat
from torch import Tensor

from landmark.loss.angle import Angle, shift_angle_monotonic
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.settings import checked


class SubCenterArcFace(MarginLoss):
    """Sub-centre ArcFace (Deng et al. 2020, ECCV, Boosting Face Recognition by Noisy Web Faces).

    Each class has K centres, and the nearest gives the cosine to the class. The target has
    ArcFace's margin. Interiors, old prints and mislabelled photos of a landmark gather at a
    separate centre.

    Args:
        margin: Angle in radians added to the target's.
        scale: Factor s on the cosines.
        sub_centres: Centres K of each class.

    Example:
        >>> import torch
        >>> loss = SubCenterArcFace(2, 2, margin=0.3, scale=1.0, sub_centres=2)
        >>> loss.weight.data = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
        >>> embeddings = torch.tensor([[3.0, 4.0]])  # cosines 1 and 0.8 to the nearest centres
        >>> round(loss(embeddings, torch.tensor([0])).item(), 4)  # logits 0.9553 and 0.8
        0.6185
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: Angle = 0.5,
        scale: PositiveFloat = 64.0,
        sub_centres: Annotated[int, Field(gt=0, le=1000)] = 3,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, sub_centres=sub_centres, **softmax)
        self.margin = margin

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta + margin) for the nearest target centre, continued as in ArcFace."""
        return shift_angle_monotonic(cosine, self.margin)

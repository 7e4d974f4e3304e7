"""ElasticFace: a random margin for each photo (Boutros et al. 2022)."""

from typing import Literal, Unpack

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from landmark.loss.angle import Angle, shift_angle_monotonic
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.settings import checked


class ElasticFace(MarginLoss):
    """ElasticFace-Arc and -Cos (Boutros et al. 2022, arXiv 2109.09416, equations 4 to 6).

    While training each photo's margin is sampled from a normal distribution around `margin`, from
    torch's global generator; in evaluation it is `margin` itself. It is added to the angle as in
    ArcFace, or subtracted from the cosine as in CosFace. With `sort` (ElasticFace+) the largest
    sampled margin goes to the photo farthest from its centre, and so on.

    Args:
        margin: Mean m of the margins.
        deviation: Standard deviation sigma of the margins.
        scale: Factor s on the cosines.
        margin_on: Where the margin applies, angle or cosine.
        sort: Assign larger margins to photos farther from their centres.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> loss = ElasticFace(8, 4, margin=0.5, deviation=0.1, margin_on="cosine", sort=True)
        >>> cosine, labels = torch.tensor([0.9, 0.1, 0.5]), torch.tensor([0, 1, 2])
        >>> margins = cosine - loss.target_margin(cosine, labels, norms=torch.ones(3))
        >>> margins.argsort().tolist()  # the nearest photo has the smallest margin
        [0, 2, 1]
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: Angle = 0.5,
        deviation: NonNegativeFloat = 0.0125,
        scale: PositiveFloat = 64.0,
        margin_on: Literal["angle", "cosine"] = "angle",
        sort: bool = False,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, **softmax)
        self.margin, self.deviation = margin, deviation
        self.margin_on = margin_on
        self.sort = sort

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Apply a margin that is sampled for each photo while training."""
        margins = self._margins(cosine.detach())
        if self.margin_on == "angle":
            return shift_angle_monotonic(cosine, margins)
        return cosine - margins

    def _margins(self, cosine: Tensor) -> Tensor:
        """Return the margins of photos with these cosines to their centres: (B,) → (B,)."""
        margins = torch.full_like(cosine, self.margin)
        if self.training:
            margins += self.deviation * torch.randn_like(cosine)
        if not self.sort:
            return margins
        nearest_first = cosine.argsort(descending=True)
        return torch.empty_like(margins).scatter_(0, nearest_first, margins.sort().values)

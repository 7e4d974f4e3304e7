"""ElasticFace: a margin drawn anew for each photo (Boutros et al. 2022)."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from landmark.error import UserError
from landmark.loss.angle import check_margin, plus_angle
from landmark.loss.margin import MarginLoss


class ElasticFace(MarginLoss):
    """ElasticFace-Arc and -Cos (Boutros et al. 2022, arXiv 2109.09416, equations 4 to 6).

    While training each photo's margin is drawn from a normal distribution around `margin`, from
    torch's global generator; in evaluation it is `margin` itself. The margin goes onto the angle
    as in ArcFace, or off the cosine as in CosFace. With `sort` (ElasticFace+) the drawn margins are
    handed out by size, the largest to the photo that is farthest from its centre.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        margin: Mean m of the margins; 0 to pi.
        deviation: Standard deviation sigma of the margins, 0 or more.
        scale: Factor s on the cosines.
        margin_on: angle or cosine, where the margin goes.
        sort: The farthest photo of the batch has the largest margin drawn, and so on.
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
        deviation: float = 0.0125,
        scale: float = 64.0,
        margin_on: str = "angle",
        sort: bool = False,
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
        if deviation < 0:
            raise UserError(f"loss.deviation={deviation} must be 0 or more")
        if margin_on not in ("angle", "cosine"):
            raise UserError(f"loss.margin_on={margin_on}: choose angle or cosine")
        self.margin, self.deviation = margin, deviation
        self.margin_on = margin_on
        self.sort = sort

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """The target's cosine after a margin that is drawn for each photo while training."""
        del labels, lengths
        margins = self._margins(cosine.detach())
        return plus_angle(cosine, margins) if self.margin_on == "angle" else cosine - margins

    def _margins(self, cosine: Tensor) -> Tensor:
        """Margins of a batch whose photos have these cosines to their centres: (B,) to (B,)."""
        margins = torch.full_like(cosine, self.margin)
        if self.training:
            margins += self.deviation * torch.randn_like(cosine)
        if not self.sort:
            return margins
        nearest_first = cosine.argsort(descending=True)
        return torch.empty_like(margins).scatter_(0, nearest_first, margins.sort().values)

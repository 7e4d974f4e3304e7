"""MagFace: the norm of the embedding reflects the quality of its photo (Meng et al. 2021)."""

from typing import Unpack

from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from landmark.error import UserError
from landmark.loss.angle import Angle, shift_angle_monotonic
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.settings import checked


class MagFace(MarginLoss):
    """MagFace (Meng et al. 2021, arXiv 2103.06627, equation 3 and section 3.3).

    With a the norm of an embedding, clipped to [shortest, longest], the target has ArcFace's margin
    of m(a), which rises linearly from `smallest_margin` to `largest_margin`. strength * g(a) with
    g(a) = 1 / a + a / longest^2, which falls with a, is added to the photo's loss, so that easy
    photos get long embeddings despite the larger margin. Gradients flow through the norms.

    Args:
        shortest: Norm l_a, which has the smallest margin.
        longest: Norm u_a, which has the largest margin.
        smallest_margin: Angle l_m in radians.
        largest_margin: Angle u_m in radians.
        strength: Factor lambda_g on the regulariser.
        scale: Factor s on the cosines.

    Example:
        >>> import torch
        >>> loss = MagFace(embedding_dim=8, num_classes=4)
        >>> [round(penalty, 3) for penalty in loss.penalty(torch.tensor([5.0, 60.0])).tolist()]
        [3.529, 0.757]
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        shortest: PositiveFloat = 10.0,
        longest: float = 110.0,
        smallest_margin: Angle = 0.45,
        largest_margin: Angle = 0.8,
        strength: NonNegativeFloat = 35.0,
        scale: PositiveFloat = 64.0,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, **softmax)
        if shortest >= longest:
            raise UserError(
                f"loss.shortest={shortest} is not below loss.longest={longest}. "
                "Pass shortest < longest."
            )
        self.shortest, self.longest = shortest, longest
        self.smallest_margin, self.largest_margin = smallest_margin, largest_margin
        self.strength = strength

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Return cos(theta + m(norm)), continued as in ArcFace."""
        position = (self._clipped(norms) - self.shortest) / (self.longest - self.shortest)
        margin = self.smallest_margin + (self.largest_margin - self.smallest_margin) * position
        return shift_angle_monotonic(cosine, margin)

    def penalty(self, norms: Tensor) -> Tensor:
        """Return the regulariser strength * g(norm), (B,) → (B,)."""
        norms = self._clipped(norms)
        return self.strength * (1 / norms + norms / self.longest**2)

    def _clipped(self, norms: Tensor) -> Tensor:
        return norms.clamp(self.shortest, self.longest)

"""SphereFace: a factor on the angle (Liu et al. 2017, arXiv 1704.08063)."""

from typing import Annotated, Unpack

from pydantic import Field, PositiveFloat
from torch import Tensor

from landmark.loss.angle import angle_of, monotonic_cosine
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.settings import checked


class SphereFace(MarginLoss):
    """Multiplicative angular margin loss (Liu et al. 2017, arXiv 1704.08063, equation 7).

    Embeddings are normalised and multiplied by a scale, as in SphereFace Revived (Liu et al. 2022,
    arXiv 2109.05565), whose margin is the default; the 4 of 2017 trains only when it is phased in
    slowly. The target's logit is scale * psi(theta) with
    psi(theta) = (-1)^k * cos(margin * theta) - 2 * k for margin * theta from k * pi to
    (k + 1) * pi, which falls with theta everywhere.

    Args:
        margin: Factor m on the target's angle.
        scale: Factor s on the cosines.

    Example:
        >>> import torch
        >>> loss = SphereFace(embedding_dim=2, num_classes=2, margin=1.5, scale=1.0)
        >>> loss.weight.data = torch.eye(2)
        >>> embeddings = torch.tensor([[3.0, 4.0]])  # cosines 0.6 and 0.8
        >>> round(loss(embeddings, torch.tensor([0])).item(), 4)  # logits 0.1789 and 0.8
        1.0512
    """

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: Annotated[float, Field(ge=1)] = 1.5,
        scale: PositiveFloat = 30.0,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, **softmax)
        self.margin = margin

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Return psi(theta)."""
        return monotonic_cosine(self.margin * angle_of(cosine))

"""AdaFace: a margin that depends on the norm of the embedding (Kim et al. 2022)."""

import math
from typing import Annotated, Unpack

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from landmark.loss.angle import angle_of
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.processes import gather
from landmark.settings import checked

_EPSILON = 1e-3
_MIN_NORM, _MAX_NORM = 1e-3, 100.0


class AdaFace(MarginLoss):
    """AdaFace (Kim et al. 2022, arXiv 2204.00964, equations 11 to 14).

    The norm of an embedding is a proxy for the quality of its photo. With
    z = concentration * (norm - mean norm) / deviation of norms, clipped to [-1, 1], the target's
    logit is scale * (cos(theta - margin * z) - (margin * z + margin)): hard photos of good quality
    get a larger weight, unrecognisable ones a smaller one. Norms are clipped to [0.001, 100], and
    no gradient flows through them; theta - margin * z is clipped to [0.001, pi - 0.001].

    Mean and deviation are running statistics of the training batches, initially 20 and 100 as in
    the authors' code: new = momentum * batch + (1 - momentum) * old. They are float32 buffers,
    saved with the weights; all ranks update them from their joint batch. The deviation of a batch
    is the biased one (divided by B), which is defined for a batch of one.

    Args:
        margin: The paper's m, used both as an angle in radians and as a cosine.
        scale: Factor s on the cosines.
        concentration: The paper's h.
        momentum: Weight of a batch in the running mean and deviation.

    Example:
        >>> import torch
        >>> loss = AdaFace(embedding_dim=8, num_classes=4).eval()
        >>> cosine, labels = torch.tensor([0.5, 0.5]), torch.tensor([0, 1])
        >>> weak_and_strong = torch.tensor([1.0, 90.0])
        >>> [round(c, 3) for c in loss.target_margin(cosine, labels, weak_and_strong).tolist()]
        [0.103, 0.085]
    """

    mean_length: Tensor
    length_deviation: Tensor

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: NonNegativeFloat = 0.4,
        scale: PositiveFloat = 64.0,
        concentration: PositiveFloat = 0.333,
        momentum: Annotated[float, Field(ge=0, le=1)] = 0.01,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale, **softmax)
        self.margin = margin
        self.concentration = concentration
        self.momentum = momentum
        self.register_buffer("mean_length", torch.tensor(20.0, dtype=torch.float32))
        self.register_buffer("length_deviation", torch.tensor(100.0, dtype=torch.float32))

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Apply both margins; while training, update the running statistics first."""
        quality = self._quality(norms.detach())
        angle = angle_of(cosine) - self.margin * quality
        shifted = angle.clamp(_EPSILON, math.pi - _EPSILON).cos()
        return shifted - (self.margin + self.margin * quality)

    @torch.no_grad()
    def _quality(self, norms: Tensor) -> Tensor:
        """Return z of each embedding, in [-1, 1]: norms (B,) → (B,)."""
        norms = norms.clamp(_MIN_NORM, _MAX_NORM)
        if self.training:
            joint = gather(norms).to(self.mean_length)  # of all ranks
            self.mean_length.lerp_(joint.mean(), self.momentum)
            self.length_deviation.lerp_(joint.std(correction=0), self.momentum)
        z = (norms - self.mean_length) / (self.length_deviation + _EPSILON)
        return (z * self.concentration).clamp(-1, 1)

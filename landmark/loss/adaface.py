"""AdaFace: a margin that follows the length of the embedding (Kim et al. 2022)."""

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from landmark.error import UserError
from landmark.loss.angle import angle_of
from landmark.loss.margin import MarginLoss
from landmark.loss.processes import of_all_processes

_EDGE = 1e-3
_SHORTEST, _LONGEST = 1e-3, 100.0


class AdaFace(MarginLoss):
    """AdaFace (Kim et al. 2022, arXiv 2204.00964, equations 11 to 14).

    The length of an embedding stands for the quality of its photo. With z the length less the mean
    length, over the deviation of lengths, times `concentration`, cut to [-1, 1], the target's logit
    is scale * (cos(theta - margin * z) - (margin * z + margin)): hard photos of good quality count
    more, those that cannot be recognised less. Lengths are cut to [0.001, 100], and no gradient
    flows through them; theta - margin * z is cut to [0.001, pi - 0.001].

    Mean and deviation follow the batches while training, from 20 and 100 as in the authors' code:
    new = momentum * batch + (1 - momentum) * old. They are float32 buffers, saved with the weights;
    of several processes all follow the batch that their parts make together. The deviation is that
    of the batch itself (divided by B), so that a batch of one has one as well.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        margin: Angle in radians, and cosine; 0 or more.
        scale: Factor s on the cosines.
        concentration: The paper's h.
        momentum: Share of a batch in the running mean and deviation, in [0, 1].
        label_smoothing: Share of the target spread evenly over all classes.
        class_weights: null, inverse, inverse_sqrt or effective, see `PhotoWeighting`.
        focal: Exponent gamma of the focal modulation, see `PhotoWeighting`.
        class_counts: Train photos of each class, (C,); needed for `class_weights`.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar.

    Raises:
        UserError: A setting is out of its range.
    """

    mean_length: Tensor
    length_deviation: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        margin: float = 0.4,
        scale: float = 64.0,
        concentration: float = 0.333,
        momentum: float = 0.01,
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
        if margin < 0:
            raise UserError(f"loss.margin={margin} must be 0 or more")
        if concentration <= 0:
            raise UserError(f"loss.concentration={concentration} must be above 0")
        if not 0 <= momentum <= 1:
            raise UserError(f"loss.momentum={momentum} must be in [0, 1]")
        self.margin = margin
        self.concentration = concentration
        self.momentum = momentum
        self.register_buffer("mean_length", torch.tensor(20.0, dtype=torch.float32))
        self.register_buffer("length_deviation", torch.tensor(100.0, dtype=torch.float32))

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """The target's cosine less its margins; moves the running figures first while training."""
        del labels
        quality = self._quality(lengths.detach())
        angle = angle_of(cosine) - self.margin * quality
        turned = angle.clamp(_EDGE, math.pi - _EDGE).cos()
        return turned - (self.margin + self.margin * quality)

    @torch.no_grad()
    def _quality(self, lengths: Tensor) -> Tensor:
        """The z of each embedding, in [-1, 1]: lengths (B,), result (B,)."""
        lengths = lengths.clamp(_SHORTEST, _LONGEST)
        if self.training:
            everywhere = of_all_processes(lengths).to(self.mean_length)
            self.mean_length.lerp_(everywhere.mean(), self.momentum)
            self.length_deviation.lerp_(everywhere.std(correction=0), self.momentum)
        z = (lengths - self.mean_length) / (self.length_deviation + _EDGE)
        return (z * self.concentration).clamp(-1, 1)

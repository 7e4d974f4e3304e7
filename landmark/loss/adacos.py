"""AdaCos: a scale that follows the training (Zhang et al. 2019, arXiv 1905.00292)."""

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from landmark.error import UserError
from landmark.loss.margin import MarginLoss
from landmark.loss.processes import of_all_processes


class AdaCos(MarginLoss):
    """Adaptively scaled cosine softmax (Zhang et al. 2019, arXiv 1905.00292).

    There is no margin. The scale starts at sqrt(2) * log(C - 1) (the paper's fixed AdaCos) and
    stays there when `dynamic` is off. When it is on, each training batch first moves it:

        B_avg = mean over the batch of sum over the other classes j of exp(scale * cos(theta_j))
        scale = log(B_avg) / cos(min(pi / 4, theta_med))

    with theta_med the median of the batch's target angles (of an even batch the lower middle one).
    A batch for which this is no positive number, which takes a handful of classes all opposite to
    the embeddings, leaves the scale as it was. The scale is a float32 buffer, saved with the
    weights; of several processes all follow the batch that their parts make together.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes, at least 3: log(C - 1) must be above 0.
        dynamic: Move the scale while training; else keep the first one.
        label_smoothing: Share of the target spread evenly over all classes.
        class_weights: null, inverse, inverse_sqrt or effective, see `PhotoWeighting`.
        focal: Exponent gamma of the focal modulation, see `PhotoWeighting`.
        class_counts: Train photos of each class, (C,); needed for `class_weights`.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar.

    Raises:
        UserError: A setting is out of its range, or there are fewer than 3 classes.
    """

    scale: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        dynamic: bool = True,
        *,
        label_smoothing: float = 0.0,
        class_weights: str | None = None,
        focal: float = 0.0,
        class_counts: ArrayLike | None = None,
    ) -> None:
        if num_classes < 3:
            raise UserError(f"loss=adacos needs at least 3 landmarks, and there are {num_classes}")
        scale = math.sqrt(2) * math.log(num_classes - 1)
        super().__init__(
            embedding_dim,
            num_classes,
            scale,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
            focal=focal,
            class_counts=class_counts,
        )
        del self.scale
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.dynamic = dynamic

    @property
    def needs_all_cosines(self) -> bool:
        """The scale is moved by all cosines of a batch."""
        return self.dynamic

    def logit_scale(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """The scale, moved first by this batch's cosines (B, C) while training."""
        if self.dynamic and self.training:
            self._follow(cosines.detach(), labels[:, None])
        return self.scale.clone()  # the next batch moves the buffer before this one goes backward

    @torch.no_grad()
    def _follow(self, cosines: Tensor, target: Tensor) -> None:
        others = (self.scale * cosines).scatter(1, target, -math.inf)
        log_sums = of_all_processes(torch.logsumexp(others, 1))  # (B,) of all processes
        log_average = torch.logsumexp(log_sums, 0) - math.log(len(log_sums))
        # Angles rise as cosines fall, and `median` takes the lower middle: hence the two signs.
        median_cosine = -(-of_all_processes(cosines.gather(1, target)[:, 0])).median()
        scale = log_average / median_cosine.clamp(min=math.cos(math.pi / 4))
        usable = torch.isfinite(scale) & (scale > 0)
        self.scale.copy_(torch.where(usable, scale, self.scale))

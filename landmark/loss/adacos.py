"""AdaCos: a scale that adapts during training (Zhang et al. 2019, arXiv 1905.00292)."""

import math
from typing import Unpack

import torch
from torch import Tensor

from landmark.error import UserError
from landmark.loss.margin import MarginLoss, SoftmaxOptions
from landmark.processes import gather
from landmark.settings import checked


class AdaCos(MarginLoss):
    """Adaptively scaled cosine softmax (Zhang et al. 2019, arXiv 1905.00292).

    There is no margin. The scale starts at sqrt(2) * log(C - 1) (the paper's fixed AdaCos) and
    stays there with `dynamic=False`. Otherwise each training batch first updates it:

        B_avg = mean over the batch of sum over the other classes j of exp(scale * cos(theta_j))
        scale = log(B_avg) / cos(min(pi / 4, theta_med))

    with theta_med the median of the batch's target angles (the lower one of an even batch). A batch
    for which this is not a positive number leaves the scale unchanged (possible only with a handful
    of classes, all opposite to the embeddings). The scale is a float32 buffer, saved with the
    weights; all ranks update it from their joint batch.

    Args:
        num_classes: Number of classes C, at least 3: log(C - 1) must be positive.
        dynamic: Update the scale during training.

    Raises:
        UserError: An option is out of range, or there are fewer than 3 classes.

    Example:
        >>> loss = AdaCos(embedding_dim=8, num_classes=101)
        >>> round(loss.scale.item(), 4)
        6.5127
    """

    needs_all_cosines = True  # unless the scale is fixed
    scale: Tensor

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        dynamic: bool = True,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        if num_classes < 3:
            raise UserError(
                f"loss=adacos needs at least 3 landmarks, but there are {num_classes}. "
                "Choose another loss, such as loss=cosface."
            )
        scale = math.sqrt(2) * math.log(num_classes - 1)
        super().__init__(embedding_dim, num_classes, scale, **softmax)
        del self.scale  # a number so far; becomes a buffer
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.dynamic = dynamic
        self.needs_all_cosines = dynamic

    def logit_scale(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """Return the scale, updated first by this batch's cosines (B, C) while training."""
        if self.dynamic and self.training:
            self._update(cosines.detach(), labels[:, None])
        return self.scale.clone()  # the next batch may change the buffer before this backward

    @torch.no_grad()
    def _update(self, cosines: Tensor, target: Tensor) -> None:
        negatives = (self.scale * cosines).scatter(1, target, -math.inf)
        log_sums = gather(torch.logsumexp(negatives, 1))  # (B,) of all ranks
        log_average = torch.logsumexp(log_sums, 0) - math.log(len(log_sums))
        # `median` returns the lower middle value. That of the angles has the upper middle cosine.
        median_cosine = -(-gather(cosines.gather(1, target)[:, 0])).median()
        scale = log_average / median_cosine.clamp(min=math.cos(math.pi / 4))
        is_usable = torch.isfinite(scale) & (scale > 0)
        self.scale.copy_(torch.where(is_usable, scale, self.scale))

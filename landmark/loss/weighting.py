"""Reduce the photos' losses to a scalar: class weights, focal modulation, mean."""

from collections.abc import Callable
from typing import Literal

import torch
from numpy.typing import ArrayLike
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from landmark.error import UserError
from landmark.settings import checked

ClassWeights = Literal["inverse", "inverse_sqrt", "effective"]
_EFFECTIVE_BETA = 0.999
_WEIGHT_OF: dict[str, Callable[[Tensor], Tensor]] = {
    "inverse": torch.reciprocal,
    "inverse_sqrt": torch.rsqrt,
    "effective": lambda counts: (1 - _EFFECTIVE_BETA) / (1 - _EFFECTIVE_BETA**counts),
}


class PhotoWeighting(nn.Module):
    """Mean over a batch of weight(class) * (1 - p)^focal * loss, with p = exp(-loss).

    The weight of a class with n training photos is

        inverse       1 / n
        inverse_sqrt  1 / sqrt(n)
        effective     (1 - beta) / (1 - beta^n), beta = 0.999 (Cui et al. 2019, arXiv 1901.05555)

    times a constant that makes the mean weight over all training photos 1. The learning rate keeps
    its meaning, and the batch loss is a plain mean, so that ranks can share a batch.

    Focal modulation (Lin et al. 2017, arXiv 1708.02002, equation 4) reduces the loss of
    well-classified photos.

    Args:
        num_classes: Number of classes C.
        class_weights: Weight of a class by its number of photos. None means equal weights.
        focal: Exponent gamma. 0 turns the modulation off.
        class_counts: Training photos of each class, (C,); required by `class_weights`.

    Shape:
        losses (B,), cross entropies; labels (B,) int64; output a scalar.

    Raises:
        UserError: `class_counts` is missing, has another length than C, or contains a 0.

    Example:
        >>> import torch
        >>> weighting = PhotoWeighting(2, class_weights="inverse", class_counts=[1, 3])
        >>> weighting.class_weights.tolist()
        [2.0, 0.6666666865348816]
        >>> weighting(torch.tensor([1.0, 3.0]), torch.tensor([0, 1])).item()
        2.0
    """

    class_weights: Tensor | None

    @checked
    def __init__(
        self,
        num_classes: int,
        class_weights: ClassWeights | None = None,
        focal: NonNegativeFloat = 0.0,
        class_counts: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        self.focal = focal
        weights = None
        if class_weights is not None:
            counts = validated_counts(class_counts, num_classes, "loss.class_weights")
            weights = _WEIGHT_OF[class_weights](counts)
            weights = (weights * counts.sum() / (weights * counts).sum()).float()
        # Recomputed from the counts in each run, so not part of a checkpoint.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, losses: Tensor, labels: Tensor) -> Tensor:
        """Reduce losses (B,) of photos with labels (B,) to a scalar."""
        if self.focal:
            smallest = torch.finfo(losses.dtype).tiny  # the gradient of the power is infinite at 0
            losses = (-torch.expm1(-losses)).clamp(min=smallest) ** self.focal * losses
        if self.class_weights is not None:
            losses = losses * self.class_weights.to(losses.dtype)[labels]
        return losses.mean()


def validated_counts(class_counts: ArrayLike | None, num_classes: int, key: str) -> Tensor:
    """Return the training photos of each class as (C,) float64.

    Args:
        class_counts: Training photos of each class.
        num_classes: Number of classes C.
        key: Setting that needs the counts, for messages.

    Raises:
        UserError: The counts are missing, are not C numbers, or a class has no photo.

    Example:
        >>> validated_counts([3, 1], num_classes=2, key="loss.class_weights").tolist()
        [3.0, 1.0]
        >>> validated_counts([3, 0], num_classes=2, key="loss.class_weights")
        Traceback (most recent call last):
        landmark.error.UserError: loss.class_weights needs a training photo of every landmark, ...
    """
    if class_counts is None:
        raise UserError(f"{key} needs class_counts. Pass the number of photos of each landmark.")
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if counts.shape != (num_classes,):
        raise UserError(
            f"{key}: class_counts has shape {tuple(counts.shape)}. Pass one number for each of the "
            f"{num_classes} landmarks."
        )
    if not bool((counts > 0).all()):
        empty = int((counts <= 0).nonzero()[0])
        raise UserError(
            f"{key} needs a training photo of every landmark, but class {empty} has none. "
            "Remove the class or add a photo."
        )
    return counts

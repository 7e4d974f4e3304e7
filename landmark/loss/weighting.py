"""How the losses of a batch's photos become one: weights of the classes, focal modulation, mean."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from landmark.error import UserError

_EFFECTIVE_BETA = 0.999


class PhotoWeighting(nn.Module):
    """The mean over a batch of weight(class) * (1 - p)^focal * loss, with p = exp(-loss).

    The weights of the classes are, for a class of n train photos,

        inverse       1 / n
        inverse_sqrt  1 / sqrt(n)
        effective     (1 - beta) / (1 - beta^n), beta = 0.999 (Cui et al. 2019, arXiv 1901.05555)

    times the one factor that makes their mean over all train photos 1: the learning rate keeps its
    meaning, and the loss of a batch is a plain mean, so that processes can share a batch.

    The focal modulation (Lin et al. 2017, arXiv 1708.02002, equation 4) plays down photos that are
    placed well already; 0 leaves all as they are.

    Args:
        num_classes: Number C of classes.
        class_weights: inverse, inverse_sqrt, effective, or None: all classes count alike.
        focal: Exponent gamma, 0 or more.
        class_counts: Train photos of each class, (C,); needed for `class_weights`.

    Shape:
        losses (B,), cross entropies; labels (B,) int64; result a scalar.

    Raises:
        UserError: A setting is out of its range, or a class has no photo.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        class_weights: str | None = None,
        focal: float = 0.0,
        class_counts: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        if focal < 0:
            raise UserError(f"loss.focal={focal} must be 0 or more")
        self.focal = focal
        weights = None
        if class_weights is not None:
            counts = checked_counts(class_counts, num_classes, "loss.class_weights")
            weights = _weights(class_weights, counts).float()
        # Made again from the counts in each run, so no part of a checkpoint.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, losses: Tensor, labels: Tensor) -> Tensor:
        """One loss of a batch: losses (B,), labels (B,), result a scalar."""
        if self.focal:
            smallest = torch.finfo(losses.dtype).tiny  # the power has no slope at 0
            losses = (-torch.expm1(-losses)).clamp(min=smallest) ** self.focal * losses
        if self.class_weights is not None:
            losses = losses * self.class_weights.to(losses.dtype)[labels]
        return losses.mean()


def checked_counts(class_counts: ArrayLike | None, num_classes: int, key: str) -> Tensor:
    """Train photos of each class as (C,) float64.

    Raises:
        UserError: There are none given, not one a class, or a class has no photo; names `key`.
    """
    if class_counts is None:
        raise UserError(f"{key} needs class_counts, the train photos of each landmark")
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if counts.shape != (num_classes,):
        raise UserError(
            f"{key}: class_counts has the shape {tuple(counts.shape)}, not one number for each of "
            f"the {num_classes} landmarks"
        )
    if not bool((counts > 0).all()):
        empty = int((counts <= 0).nonzero()[0])
        raise UserError(
            f"{key} needs a train photo of every landmark, and class {empty} has none; "
            "leave it out or give it one"
        )
    return counts


def _weights(kind: str, counts: Tensor) -> Tensor:
    if kind == "inverse":
        weights = 1 / counts
    elif kind == "inverse_sqrt":
        weights = counts.rsqrt()
    elif kind == "effective":
        weights = (1 - _EFFECTIVE_BETA) / (1 - _EFFECTIVE_BETA**counts)
    else:
        raise UserError(
            f"loss.class_weights={kind}: choose inverse, inverse_sqrt, effective or null"
        )
    return weights * counts.sum() / (weights * counts).sum()

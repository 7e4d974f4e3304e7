"""Softmax: plain linear classification."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.loss.cross_entropy import check_labels, cross_entropy, full_precision
from landmark.loss.weighting import PhotoWeighting


class Softmax(nn.Module):
    """Softmax cross entropy over a linear layer with bias; embeddings keep their length.

    Computed in float32 or wider with autocast switched off.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        label_smoothing: Share of the target spread evenly over all classes (Szegedy et al. 2016,
            arXiv 1512.00567, section 7).
        class_weights: null, inverse, inverse_sqrt or effective, see `PhotoWeighting`.
        focal: Exponent gamma of the focal modulation, see `PhotoWeighting`.
        class_counts: Train photos of each class, (C,); needed for `class_weights`.

    Shape:
        embeddings (B, D); labels (B,) int64; result a scalar. `weight` is (C, D), `bias` (C,).

    Raises:
        UserError: A setting is out of its range.
        ValueError: A label on the CPU is no class (see `check_labels` for other devices).
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        label_smoothing: float = 0.0,
        class_weights: str | None = None,
        focal: float = 0.0,
        class_counts: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing={label_smoothing} must be in [0, 1)")
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.weighting = PhotoWeighting(num_classes, class_weights, focal, class_counts)
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_dim))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch: embeddings (B, D), labels (B,), result a scalar."""
        check_labels(labels, self.num_classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = functional.linear(*full_precision(embeddings, self.weight, self.bias))
            losses = cross_entropy(logits, labels, self.label_smoothing)
            return self.weighting(losses, labels)

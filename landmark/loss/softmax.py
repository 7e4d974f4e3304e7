"""Softmax: plain linear classification."""

from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from landmark.loss.base import full_precision
from landmark.loss.classifier import ClassifierLoss, SoftmaxOptions, cross_entropy


class Softmax(ClassifierLoss):
    """Softmax cross entropy over a linear layer with bias; embeddings are not normalised.

    Args:
        embedding_dim: Embedding length D.
        num_classes: Number of classes C.
        **softmax: See `SoftmaxOptions`.

    Shape:
        embeddings (B, D); labels (B,) int64; output a scalar. `weight` is (C, D), `bias` (C,).

    Raises:
        UserError: An option is out of range.
        LabelError: A label on the CPU is not a class (see `check_labels` for other devices).

    Example:
        >>> import torch
        >>> loss = Softmax(embedding_dim=2, num_classes=2)
        >>> loss.weight.data = torch.eye(2)
        >>> round(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.1269
    """

    def __init__(
        self, embedding_dim: int, num_classes: int, **softmax: Unpack[SoftmaxOptions]
    ) -> None:
        super().__init__(embedding_dim, num_classes, **softmax)
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss of a batch."""
        logits = functional.linear(*full_precision(embeddings, self.weight, self.bias))
        return self.weighting(cross_entropy(logits, labels, self.label_smoothing), labels)

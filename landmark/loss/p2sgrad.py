"""P2SGrad: cosines regressed to 1 and 0, without scale or margin (Zhang et al. 2019)."""

from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from landmark.loss.base import full_precision
from landmark.loss.classifier import ClassifierLoss
from landmark.loss.nested import NestedDims
from landmark.loss.weighting import ClassWeights


class P2SGrad(ClassifierLoss):
    """Probability-to-similarity gradient (Zhang et al. 2019, arXiv 1905.02479, equation 11).

    The paper defines gradients instead of a loss: that of cos(theta_j) is cos(theta_j) - 1 for the
    target class and cos(theta_j) for all others. They are the gradients of this loss of a photo:

        1/2 * sum over the classes j of (cos(theta_j) - (j is the target))^2.

    There is no softmax, hence no scale, margin, label smoothing or focal modulation.

    Args:
        class_weights, class_counts, nested: See `SoftmaxOptions`.

    Shape:
        embeddings (B, D), of any norm; labels (B,) int64; output a scalar. `weight` is (C, D).

    Raises:
        UserError: An option is out of range, or a label on the CPU is not a class.

    Example:
        >>> import torch
        >>> loss = P2SGrad(embedding_dim=2, num_classes=2)
        >>> loss.weight.data = torch.eye(2)
        >>> round(loss(torch.tensor([[3.0, 4.0]]), torch.tensor([0])).item(), 4)  # cosines .6, .8
        0.4
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        class_weights: ClassWeights | None = None,
        class_counts: ArrayLike | None = None,
        nested: NestedDims | None = None,
    ) -> None:
        del nested  # None, see `ClassifierLoss.__new__`
        super().__init__(
            embedding_dim, num_classes, class_weights=class_weights, class_counts=class_counts
        )

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss of a batch."""
        embeddings, weight = full_precision(embeddings, self.weight)
        cosines = functional.normalize(embeddings) @ functional.normalize(weight).T  # (B, C)
        target = cosines.gather(1, labels[:, None])[:, 0]
        # (c - 1)^2 = c^2 - 2 c + 1: no (B, C) one-hot.
        return self.weighting(cosines.square().sum(1) / 2 - target + 0.5, labels)

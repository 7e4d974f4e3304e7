"""P2SGrad: cosines pulled straight to 1 and 0, without scale or margin (Zhang et al. 2019)."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from landmark.loss.cross_entropy import check_labels, full_precision
from landmark.loss.weighting import PhotoWeighting


class P2SGrad(nn.Module):
    """Probability-to-similarity gradient (Zhang et al. 2019, arXiv 1905.02479, equation 11).

    The paper gives gradients instead of a loss: that of cos(theta_j) is cos(theta_j) - 1 for the
    own class and cos(theta_j) for the others. They are the gradients of the loss of a photo here,

        1/2 * sum over the classes j of (cos(theta_j) - (j is the own class))^2.

    There is no softmax, hence no scale, margin, label smoothing or focal modulation. Computed in
    float32 or wider with autocast switched off.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        class_weights: null, inverse, inverse_sqrt or effective, see `PhotoWeighting`.
        class_counts: Train photos of each class, (C,); needed for `class_weights`.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar, the mean over B.
        `weight` is (C, D).

    Raises:
        UserError: A setting is out of its range, or a label on the CPU is no class.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        class_weights: str | None = None,
        class_counts: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weighting = PhotoWeighting(
            num_classes, class_weights=class_weights, class_counts=class_counts
        )
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch: embeddings (B, D), labels (B,), result a scalar."""
        check_labels(labels, self.num_classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, weight = full_precision(embeddings, self.weight)
            cosines = functional.normalize(embeddings) @ functional.normalize(weight).T  # (B, C)
            own = cosines.gather(1, labels[:, None])[:, 0]
            # (c - 1)^2 = c^2 - 2 c + 1: no (B, C) one-hot.
            return self.weighting(cosines.square().sum(1) / 2 - own + 0.5, labels)

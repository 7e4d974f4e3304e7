"""ArcFace of other libraries as losses of train.py, to be trained alike beside ours.

With this folder on PYTHONPATH and the library installed:

python train.py experiment=loss_comparison … loss._target_=peer_losses.PytorchMetricLearning
python train.py experiment=loss_comparison … loss._target_=peer_losses.OpenMetricLearning
"""

import math

from torch import Tensor, nn


class PytorchMetricLearning(nn.Module):
    """pytorch-metric-learning's ArcFaceLoss; takes the keys of `loss=arcface`, and uses two."""

    def __init__(self, embedding_dim, num_classes, margin=0.3, scale=30.0, **_unused) -> None:
        super().__init__()
        from pytorch_metric_learning.losses import ArcFaceLoss

        self.num_classes = num_classes
        self.peer = ArcFaceLoss(num_classes, embedding_dim, math.degrees(margin), scale)

    @property
    def weight(self) -> Tensor:
        """Its class centres as (C, D), for imprinting."""
        return self.peer.W.T

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """A scalar."""
        return self.peer(embeddings, labels)


class OpenMetricLearning(nn.Module):
    """open-metric-learning's ArcFaceLoss; takes the keys of `loss=arcface`, and uses two."""

    def __init__(self, embedding_dim, num_classes, margin=0.3, scale=30.0, **_unused) -> None:
        super().__init__()
        from oml.losses.arcface import ArcFaceLoss

        self.num_classes = num_classes
        self.peer = ArcFaceLoss(embedding_dim, num_classes, m=margin, s=scale)

    @property
    def weight(self) -> Tensor:
        """Its class centres, (C, D), for imprinting."""
        return self.peer.weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """A scalar."""
        return self.peer(embeddings, labels)

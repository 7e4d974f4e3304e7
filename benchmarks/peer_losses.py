"""The alternatives to ArcFace: those of other libraries, and a softmax without a margin.

They are also losses of train.py, to train beside ours with the same settings. With this folder on
PYTHONPATH and the library installed:

python train.py experiment=loss_comparison … loss._target_=peer_losses.PytorchMetricLearning
python train.py experiment=loss_comparison … loss._target_=peer_losses.OpenMetricLearning
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class PytorchMetricLearning(nn.Module):
    """pytorch-metric-learning's ArcFaceLoss. Accepts all keys of `loss=arcface`, uses two."""

    def __init__(self, embedding_dim, num_classes, margin=0.3, scale=30.0, **_unused) -> None:
        super().__init__()
        from pytorch_metric_learning.losses import ArcFaceLoss

        self.num_classes = num_classes
        self.peer = ArcFaceLoss(num_classes, embedding_dim, math.degrees(margin), scale)

    @property
    def weight(self) -> Tensor:
        """Class centres (C, D), for imprinting."""
        return self.peer.W.T

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss."""
        return self.peer(embeddings, labels)


class OpenMetricLearning(nn.Module):
    """open-metric-learning's ArcFaceLoss. Accepts all keys of `loss=arcface`, uses two."""

    def __init__(self, embedding_dim, num_classes, margin=0.3, scale=30.0, **_unused) -> None:
        super().__init__()
        from oml.losses.arcface import ArcFaceLoss

        self.num_classes = num_classes
        self.peer = ArcFaceLoss(embedding_dim, num_classes, m=margin, s=scale)

    @property
    def weight(self) -> Tensor:
        """Class centres (C, D), for imprinting."""
        return self.peer.weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss."""
        return self.peer(embeddings, labels)


class PlainSoftmax(nn.Module):
    """Normalise, linear, cross entropy, written by hand; no margin.

    Args:
        embedding_dim: Dimension of the embeddings.
        num_classes: Number of classes.
        scale: Factor on the cosines.
        centres: Centres per class; the nearest one counts.
    """

    def __init__(self, embedding_dim, num_classes, scale=30.0, centres=1) -> None:
        super().__init__()
        self.scale, self.centres = scale, centres
        self.weight = nn.Parameter(torch.empty(num_classes * centres, embedding_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss."""
        cosines = functional.linear(
            functional.normalize(embeddings), functional.normalize(self.weight)
        )
        if self.centres > 1:
            cosines = cosines.view(len(labels), -1, self.centres).amax(2)
        return functional.cross_entropy(self.scale * cosines, labels)

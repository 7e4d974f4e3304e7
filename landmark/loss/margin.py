"""What the cosine losses share: class centres, cosines, and a margin on the target alone."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from landmark.loss.cross_entropy import check_labels, cross_entropy, full_precision
from landmark.mistake import UserMistake


class MarginLoss(nn.Module):
    """Softmax cross entropy over scaled cosines between embeddings and class centres.

    A loss of this family is one file: subclass, and override `with_margin` (what becomes of the
    cosine to an embedding's own class) or `logit_scale`. The margin touches one column a row, by
    gather and scatter; there is no (B, C) one-hot. Cosines, margin and log-softmax are computed in
    float32 or wider with autocast switched off: at scale 30 a half-precision cosine is off by more
    than the loss of a well-placed photo.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        scale: Factor on the cosines.
        label_smoothing: Share of the target spread evenly over all classes.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar, the mean over B.
        `weight` is (C, D).

    Raises:
        UserMistake: A setting is out of its range.
        ValueError: A label on the CPU is no class (see `check_labels` for other devices).
    """

    def __init__(
        self, embedding_dim: int, num_classes: int, scale: float, *, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise UserMistake(f"loss.scale={scale} must be above 0")
        if not 0 <= label_smoothing < 1:
            raise UserMistake(f"loss.label_smoothing={label_smoothing} must be in [0, 1)")
        self.num_classes = num_classes
        self.scale: float | Tensor = scale
        self.label_smoothing = label_smoothing
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.xavier_uniform_(self.weight)

    def with_margin(self, cosine: Tensor) -> Tensor:
        """The target's cosine after the margin, (B, 1) to (B, 1); here unchanged."""
        return cosine

    def logit_scale(self, cosines: Tensor, labels: Tensor) -> float | Tensor:
        """The factor on this batch's cosines (B, C) with labels (B,); here `scale`."""
        del cosines, labels
        return self.scale

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch: embeddings (B, D), labels (B,), result a scalar."""
        check_labels(labels, self.num_classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, weight = full_precision(embeddings, self.weight)
            cosines = functional.normalize(embeddings) @ functional.normalize(weight).T  # (B, C)
            scale = self.logit_scale(cosines, labels)
            target = labels[:, None]
            logits = cosines.scatter(1, target, self.with_margin(cosines.gather(1, target)))
            return cross_entropy(scale * logits, labels, self.label_smoothing)

"""What the cosine losses share: class centres, cosines, and a margin on the target alone."""

from functools import partial
from typing import Protocol

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.loss.cross_entropy import check_labels, cross_entropy, full_precision
from landmark.loss.weighting import PhotoWeighting


class PhotoLosses(Protocol):
    """Another way to compute the cross entropies of a batch: what landmark.head gives."""

    def photo_losses(
        self, loss: "MarginLoss", embeddings: Tensor, lengths: Tensor, labels: Tensor
    ) -> Tensor:
        """As `MarginLoss.photo_losses`."""


class MarginLoss(nn.Module):
    """Softmax cross entropy over scaled cosines between embeddings and class centres.

    A loss of this family is one file: subclass, and override `with_margin` (what becomes of the
    cosine to an embedding's own class), `of_others` (of the cosines to the other classes),
    `logit_scale` or `penalty`. The margin touches one column a row, by gather and scatter; there is
    no (B, C) one-hot. Cosines, margin and log-softmax are computed in float32 or wider with
    autocast switched off: at scale 30 a half-precision cosine is off by more than the loss of a
    well-placed photo.

    Args:
        embedding_dim: Length D of an embedding.
        num_classes: Number C of classes.
        scale: Factor on the cosines.
        sub_centres: Centres K a class; a photo's cosine to a class is that to the nearest of them.
        label_smoothing: Share of the target spread evenly over all classes.
        class_weights: null, inverse, inverse_sqrt or effective, see `PhotoWeighting`.
        focal: Exponent gamma of the focal modulation, see `PhotoWeighting`.
        class_counts: Train photos of each class, (C,); needed for `class_weights`.

    Shape:
        embeddings (B, D), of any length; labels (B,) int64; result a scalar, the mean over B.
        `weight` is (C · K, D), the centres of a class side by side.

    Raises:
        UserError: A setting is out of its range.
        ValueError: A label on the CPU is no class (see `check_labels` for other devices).
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        scale: float,
        *,
        sub_centres: int = 1,
        label_smoothing: float = 0.0,
        class_weights: str | None = None,
        focal: float = 0.0,
        class_counts: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise UserError(f"loss.scale={scale} must be above 0")
        if sub_centres < 1:
            raise UserError(f"loss.sub_centres={sub_centres} must be 1 or more")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing={label_smoothing} must be in [0, 1)")
        self.num_classes = num_classes
        self.sub_centres = sub_centres
        self.scale: float | Tensor = scale
        self.label_smoothing = label_smoothing
        self.weighting = PhotoWeighting(num_classes, class_weights, focal, class_counts)
        self.weight = nn.Parameter(torch.empty(num_classes * sub_centres, embedding_dim))
        nn.init.xavier_uniform_(self.weight)
        self.head: PhotoLosses | None = None

    @property
    def needs_all_cosines(self) -> bool:
        """Whether the loss has to see all cosines of a batch at once, as no head does."""
        names = ("forward", "photo_losses", "logit_scale")
        return any(getattr(type(self), name) is not getattr(MarginLoss, name) for name in names)

    @property
    def others_stay(self) -> bool:
        """Whether the cosines to other classes enter the softmax as they are."""
        return type(self).of_others is MarginLoss.of_others

    def with_margin(self, cosine: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """The cosine to an embedding's own class after the margin; here unchanged.

        Args:
            cosine: (B,).
            labels: (B,).
            lengths: Of the embeddings before they were made unit length, (B,).

        Returns:
            (B,).
        """
        del labels, lengths
        return cosine

    def of_others(self, cosines: Tensor, target: Tensor) -> Tensor:
        """The cosines to other classes as they enter the softmax; here unchanged.

        Each element depends on itself and on its row's target alone, so that heads may call it on
        any part of the classes.

        Args:
            cosines: To some of the classes, (B, n).
            target: Cosine to the own class after the margin, (B, 1).

        Returns:
            (B, n).
        """
        del target
        return cosines

    def penalty(self, lengths: Tensor) -> Tensor | None:
        """What is added to each photo's loss for the length of its embedding, (B,) to (B,)."""
        del lengths
        return None

    def logit_scale(self, cosines: Tensor, labels: Tensor) -> float | Tensor:
        """The factor on this batch's cosines (B, C) with labels (B,); here `scale`."""
        del cosines, labels
        return self.scale

    def photo_losses(self, embeddings: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """The cross entropy of each photo, from its cosines to all classes at once.

        Args:
            embeddings: (B, D), float32 or wider.
            lengths: Of the embeddings, (B,).
            labels: (B,).

        Returns:
            (B,).
        """
        embeddings, weight = full_precision(embeddings, self.weight)
        cosines = functional.normalize(embeddings) @ functional.normalize(weight).T
        if self.sub_centres > 1:
            cosines = cosines.view(len(labels), self.num_classes, -1).amax(2)  # (B, C)
        scale = self.logit_scale(cosines, labels)
        column = labels[:, None]
        target = self.with_margin(cosines.gather(1, column)[:, 0], labels, lengths)[:, None]
        logits = self.of_others(cosines, target).scatter(1, column, target)
        return cross_entropy(scale * logits, labels, self.label_smoothing)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch: embeddings (B, D), labels (B,), result a scalar."""
        check_labels(labels, self.num_classes)
        with torch.autocast(embeddings.device.type, enabled=False):
            (embeddings,) = full_precision(embeddings)
            lengths = embeddings.norm(dim=1)
            compute = self.photo_losses
            if self.head is not None:
                compute = partial(self.head.photo_losses, self)
            loss = self.weighting(compute(embeddings, lengths, labels), labels)
            penalty = self.penalty(lengths)
            return loss if penalty is None else loss + penalty.mean()

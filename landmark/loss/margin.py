"""Base of the cosine losses: class centres, cosines, and a margin on the target alone."""

from typing import Annotated, ClassVar, Protocol, Unpack

from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from landmark.loss.base import full_precision
from landmark.loss.classifier import ClassifierLoss, SoftmaxOptions, cross_entropy
from landmark.settings import checked

# Attribute → the methods whose override makes it true.
_IMPLIED_BY = {
    "needs_all_cosines": {"forward", "compute", "photo_losses", "logit_scale"},
    "changes_negatives": {"adjust_negatives"},
}


class AnyHead(Protocol):
    """Computes the cross entropies of a batch: the interface of the heads in landmark.head."""

    def attach(self, loss: nn.Module) -> None:
        """Compute the cross entropies of `loss`, or of the margin losses that it contains."""

    def photo_losses(
        self, loss: "MarginLoss", embeddings: Tensor, norms: Tensor, labels: Tensor
    ) -> Tensor:
        """Compute the cross entropy of each photo, as `MarginLoss.photo_losses`."""


class MarginLoss(ClassifierLoss):
    """Softmax cross entropy over scaled cosines between embeddings and class centres.

    A new loss of this family is one file: a subclass that overrides `target_margin` (the cosine to
    the target class), `adjust_negatives` (the cosines to all other classes), `logit_scale` or
    `penalty`. It takes `embedding_dim`, `num_classes` and the keywords of `SoftmaxOptions`
    besides its own options.

    The margin changes one column per row, by gather and scatter; there is no (B, C) one-hot. The
    computation is in float32 or wider, because at scale 30 the rounding error of a half-precision
    cosine exceeds the loss of a well-classified photo.

    Args:
        embedding_dim: Embedding length D.
        num_classes: Number of classes C.
        scale: Factor on the cosines.
        sub_centres: Centres K of each class; the nearest gives the cosine to the class.
        **softmax: See `SoftmaxOptions`.

    Attributes:
        needs_all_cosines: Whether the loss needs the complete (B, C) cosine matrix, which only the
            head `Full` provides. Defaults to True in a subclass that overrides `forward`,
            `compute`, `photo_losses` or `logit_scale`.
        changes_negatives: Whether `adjust_negatives` changes anything. Defaults to True in a
            subclass that overrides it.
        head: Computes the photos' cross entropies. None means from the complete cosine matrix.

    Shape:
        embeddings (B, D), of any norm; labels (B,) int64; output a scalar, the mean over B.
        `weight` is (C · K, D); the centres of a class are adjacent.

    Raises:
        UserError: An option is out of range.
        LabelError: A label on the CPU is not a class (see `check_labels` for other devices).

    Example:
        >>> import torch
        >>> class HalvedCosine(MarginLoss):
        ...     def target_margin(self, cosine, labels, norms):
        ...         return cosine / 2
        >>> loss = HalvedCosine(embedding_dim=2, num_classes=2, scale=1.0)
        >>> loss.weight.data = torch.eye(2)
        >>> embeddings = torch.tensor([[3.0, 4.0]])  # cosines 0.6 and 0.8
        >>> round(loss(embeddings, torch.tensor([0])).item(), 4)  # logits 0.3 and 0.8
        0.9741
    """

    needs_all_cosines: bool = False
    changes_negatives: ClassVar[bool] = False
    head: AnyHead | None

    def __init_subclass__(cls) -> None:
        """Set the attributes that a subclass omits but implies by overriding a method."""
        super().__init_subclass__()
        for attribute, methods in _IMPLIED_BY.items():
            nearest = next(vars(c) for c in cls.__mro__ if {attribute, *methods} & vars(c).keys())
            if attribute not in nearest:
                setattr(cls, attribute, True)

    @checked
    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        scale: PositiveFloat,
        *,
        sub_centres: Annotated[int, Field(gt=0, le=1000)] = 1,
        **softmax: Unpack[SoftmaxOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, vectors_per_class=sub_centres, **softmax)
        self.sub_centres = sub_centres
        self.scale: float | Tensor = scale
        self.head = None

    def target_margin(self, cosine: Tensor, labels: Tensor, norms: Tensor) -> Tensor:
        """Apply the margin to the cosine to the target class; here unchanged.

        Args:
            cosine: (B,).
            labels: (B,).
            norms: Norms of the embeddings before normalisation, (B,).

        Returns:
            (B,).
        """
        return cosine

    def adjust_negatives(self, cosines: Tensor, target: Tensor) -> Tensor:
        """Adjust the cosines to other classes before the softmax; here unchanged.

        Each element may depend on itself and on the target of its row only, so that heads can call
        this on any subset of the classes.

        Args:
            cosines: To some of the classes, (B, n).
            target: Cosine to the target class after the margin, (B, 1).

        Returns:
            (B, n).
        """
        return cosines

    def penalty(self, norms: Tensor) -> Tensor | None:
        """Return a term for each photo's loss from the norm of its embedding, (B,); here None."""
        return None

    def logit_scale(self, cosines: Tensor, labels: Tensor) -> float | Tensor:
        """Return the factor on the cosines (B, C) of photos with labels (B,); here `scale`."""
        return self.scale

    def photo_losses(self, embeddings: Tensor, norms: Tensor, labels: Tensor) -> Tensor:
        """Compute the cross entropy of each photo from the complete cosine matrix.

        Args:
            embeddings: (B, D), float32 or wider.
            norms: Norms of the embeddings, (B,).
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
        target = self.target_margin(cosines.gather(1, column)[:, 0], labels, norms)[:, None]
        logits = self.adjust_negatives(cosines, target).scatter(1, column, target)
        return cross_entropy(scale * logits, labels, self.label_smoothing)

    def compute(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean loss of a batch, with the head if one is attached."""
        norms = embeddings.norm(dim=1)
        if self.head is None:
            losses = self.photo_losses(embeddings, norms, labels)
        else:
            losses = self.head.photo_losses(self, embeddings, norms, labels)
        loss = self.weighting(losses, labels)
        penalty = self.penalty(norms)
        return loss if penalty is None else loss + penalty.mean()

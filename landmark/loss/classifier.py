"""Base of the losses with weight vectors for each class: options, weights, cross entropy."""

from typing import Annotated, Any, TypedDict

import torch
from numpy.typing import ArrayLike
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from landmark.loss.base import Loss
from landmark.loss.nested import Nested, NestedDims
from landmark.loss.weighting import ClassWeights, PhotoWeighting
from landmark.settings import checked

LabelSmoothing = Annotated[float, Field(ge=0, lt=1)]
# F.cross_entropy skips targets equal to `ignore_index`, -100 by default. No label has this value.
_NO_LABEL = torch.iinfo(torch.int64).min


class SoftmaxOptions(TypedDict, total=False):
    """Options of every softmax loss, passed through as keywords.

    Attributes:
        label_smoothing: Share of the target spread evenly over all classes (Szegedy et al. 2016,
            arXiv 1512.00567, section 7). Defaults to 0.
        class_weights: Weight of a class by its number of photos: inverse, inverse_sqrt or
            effective, see `PhotoWeighting`. Defaults to None: equal weights.
        focal: Exponent gamma of the focal modulation, see `PhotoWeighting`. Defaults to 0: off.
        class_counts: Training photos of each class, (C,), as array or list; required by
            `class_weights` and by `DynamicMargin`.
        nested: Also train the first d dimensions of the embedding for each of these d, see
            `Nested`. Defaults to None: the whole embedding only.
    """

    label_smoothing: LabelSmoothing
    class_weights: ClassWeights | None
    focal: NonNegativeFloat
    class_counts: ArrayLike | None
    nested: NestedDims | None


class ClassifierLoss(Loss):
    """Base of the losses that compare an embedding with the weights of every class.

    With `nested` the constructor returns a `Nested` of such losses instead.

    Args:
        embedding_dim: Embedding length D.
        num_classes: Number of classes C.
        vectors_per_class: Weight vectors K of each class.
        label_smoothing, class_weights, focal, class_counts, nested: See `SoftmaxOptions`.

    Attributes:
        weight: Weight vectors (C · K, D); those of a class are adjacent.
        weighting: Reduces the photos' losses to a scalar.

    Raises:
        UserError: An option is out of range, or `class_counts` does not fit.

    Example:
        >>> ClassifierLoss(embedding_dim=8, num_classes=3, vectors_per_class=2).weight.shape
        torch.Size([6, 8])
    """

    def __new__(cls, *args: Any, nested: NestedDims | None = None, **options: Any) -> Any:  # noqa: ANN401, D102
        if nested is None:
            return super().__new__(cls)
        if args:
            options["embedding_dim"], *args = args  # type: ignore[assignment]
        embedding_dim = options.pop("embedding_dim")
        return Nested(nested, embedding_dim, lambda dim: cls(dim, *args, **options))

    @checked
    def __init__(
        self,
        embedding_dim: PositiveInt,
        num_classes: PositiveInt,
        *,
        vectors_per_class: PositiveInt = 1,
        label_smoothing: LabelSmoothing = 0.0,
        class_weights: ClassWeights | None = None,
        focal: NonNegativeFloat = 0.0,
        class_counts: ArrayLike | None = None,
        nested: NestedDims | None = None,
    ) -> None:
        del nested  # None, see `__new__`
        super().__init__()
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.weighting = PhotoWeighting(num_classes, class_weights, focal, class_counts)
        self.weight = nn.Parameter(torch.empty(num_classes * vectors_per_class, embedding_dim))
        nn.init.xavier_uniform_(self.weight)


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Compute the cross entropy of each photo; no label is ignored.

    Args:
        logits: (B, C), float32 or wider.
        labels: (B,) int64.
        label_smoothing: Share of the target spread evenly over all classes (Szegedy et al. 2016,
            arXiv 1512.00567, section 7).

    Returns:
        (B,).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
        >>> [round(loss, 4) for loss in cross_entropy(logits, torch.tensor([0, 1])).tolist()]
        [0.1269, 0.6931]
    """
    return functional.cross_entropy(
        logits,
        labels,
        ignore_index=_NO_LABEL,
        label_smoothing=label_smoothing,
        reduction="none",
    )

"""Construct losses for the classes of the training data."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Unpack

import numpy as np
from torch import nn

from landmark.error import UserError
from landmark.loss.auxiliary import AuxiliaryLosses
from landmark.loss.classifier import ClassifierLoss, SoftmaxOptions
from landmark.loss.margin import AnyHead


def build_loss(
    make: Callable[..., nn.Module],
    embedding_dim: int,
    counts: np.ndarray,
    head: AnyHead | None = None,
    teacher_dim: int | None = None,
) -> nn.Module:
    """Construct a loss for the classes of the data.

    Args:
        make: Constructor of the loss with its options bound, such as Hydra's partial. It is called
            with `embedding_dim` and `num_classes`, and with `class_counts` and `teacher_dim` if it
            takes them.
        embedding_dim: Embedding length D.
        counts: Training photos of each class, (C,).
        head: How the softmax over the classes is computed. Defaults to the complete cosine matrix.
        teacher_dim: Length of the teacher's vectors. None without a teacher.

    Raises:
        UserError: The head does not support this loss.

    Example:
        >>> from landmark.loss import DynamicMargin
        >>> build_loss(DynamicMargin, embedding_dim=8, counts=np.array([1, 9])).num_classes
        2
    """
    options: dict[str, Any] = {"class_counts": counts} if _takes_class_counts(make) else {}
    if "teacher_dim" in inspect.signature(make).parameters:
        options["teacher_dim"] = teacher_dim
    loss = make(embedding_dim=embedding_dim, num_classes=len(counts), **options)
    if head is not None:
        head.attach(loss)
    return loss


def _takes_class_counts(make: Callable[..., nn.Module]) -> bool:
    """Whether a loss takes `class_counts`, as a parameter or among its `**options`."""
    while isinstance(make, partial):
        make = make.func
    parameters = inspect.signature(make).parameters
    if "class_counts" in parameters:
        return True
    options = [p.annotation for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    is_classifier = inspect.isclass(make) and issubclass(make, ClassifierLoss)
    return bool(options) and (is_classifier or options == [Unpack[SoftmaxOptions]])


def build_auxiliary(
    makes: Mapping[str, Callable[..., nn.Module]],
    weights: Mapping[str, float],
    embedding_dim: int,
    counts: np.ndarray,
    teacher_dim: int | None = None,
) -> AuxiliaryLosses:
    """Construct the auxiliary losses, each as `build_loss` does, with their weights.

    Example:
        >>> from landmark.loss import SupCon
        >>> build_auxiliary({"supcon": SupCon}, {"supcon": 0.5}, 8, np.array([1, 9])).weights
        {'supcon': 0.5}
    """
    losses = {
        name: build_loss(make, embedding_dim, counts, teacher_dim=teacher_dim)
        for name, make in makes.items()
    }
    return AuxiliaryLosses(losses, weights)


def check_pairs(losses: Mapping[str, nn.Module], photos_per_class: int) -> None:
    """Check, before a long run, that the sampler's batches contain the pairs that a loss compares.

    Args:
        losses: Losses by the names of their overrides.
        photos_per_class: Photos of each landmark that the sampler guarantees in a batch.

    Raises:
        UserError: A loss needs pairs that the sampler does not guarantee.

    Example:
        >>> from landmark.loss import SupCon
        >>> check_pairs({"supcon": SupCon(8, 4)}, photos_per_class=1)
        Traceback (most recent call last):
        landmark.error.UserError: loss supcon compares photos of one landmark within a batch. ...
    """
    for name, loss in losses.items():
        if photos_per_class < 2 and getattr(loss, "needs_pairs", False):
            raise UserError(
                f"loss {name} compares photos of one landmark within a batch. Choose "
                "sampler=per_class with sampler.photos_per_class=2 or more."
            )

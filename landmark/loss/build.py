"""A loss made for the data that it is trained on."""

import inspect
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from torch import nn

from landmark.error import UserError
from landmark.loss.auxiliary import AuxiliaryLosses


class Serving(Protocol):
    """A head, of landmark.head."""

    def serve(self, loss: nn.Module) -> None:
        """Takes over from the margin loss that `loss` is or holds."""


def build_loss(
    make: Callable[..., nn.Module],
    embedding_dim: int,
    counts: np.ndarray,
    head: Serving | None = None,
) -> nn.Module:
    """Makes a loss for so many classes.

    Args:
        make: A loss whose own options are settled, as Hydra's partial instantiation gives it. It
            is given `embedding_dim` and `num_classes`, and `class_counts` where it asks for them.
        embedding_dim: Length D of an embedding.
        counts: Train photos of each class, (C,).
        head: How the softmax over the classes is computed; None: all cosines at once.

    Raises:
        UserError: The head cannot serve this loss.
    """
    asked = inspect.signature(make).parameters
    known = {"class_counts": counts} if "class_counts" in asked else {}
    loss = make(embedding_dim=embedding_dim, num_classes=len(counts), **known)
    if head is not None:
        head.serve(loss)
    return loss


def build_auxiliary(
    makes: Mapping[str, Callable[..., nn.Module]],
    weights: Mapping[str, float],
    embedding_dim: int,
    counts: np.ndarray,
) -> AuxiliaryLosses:
    """Makes the losses beside the main one, as `build_loss` does, each with its weight."""
    losses = {name: build_loss(make, embedding_dim, counts) for name, make in makes.items()}
    return AuxiliaryLosses(losses, weights)


def check_pairs(losses: Mapping[str, nn.Module], photos_per_class: int) -> None:
    """Refuses, before a long run, a sampler whose batches leave a pair loss nothing to compare.

    Args:
        losses: by the names that were chosen.
        photos_per_class: photos of each landmark that the sampler puts into a batch; 1: it promises
            no more.

    Raises:
        UserError: names the loss.
    """
    for name, loss in losses.items():
        if photos_per_class < 2 and getattr(loss, "needs_pairs", False):
            raise UserError(
                f"loss {name}: compares photos of one landmark within a batch; choose "
                "sampler=per_class with sampler.photos_per_class=2 or more"
            )

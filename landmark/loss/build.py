"""A loss made for the data that it is trained on."""

import inspect
from collections.abc import Callable
from typing import Protocol

import numpy as np
from torch import nn


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
        UserMistake: The head cannot serve this loss.
    """
    asked = inspect.signature(make).parameters
    known = {"class_counts": counts} if "class_counts" in asked else {}
    loss = make(embedding_dim=embedding_dim, num_classes=len(counts), **known)
    if head is not None:
        head.serve(loss)
    return loss

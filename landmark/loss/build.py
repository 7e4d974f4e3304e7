"""A loss made for the data that it is trained on."""

import inspect
from collections.abc import Callable

import numpy as np
from torch import nn


def build_loss(make: Callable[..., nn.Module], embedding_dim: int, counts: np.ndarray) -> nn.Module:
    """Makes a loss for so many classes.

    Args:
        make: A loss whose own options are settled, as Hydra's partial instantiation gives it. It
            is given `embedding_dim` and `num_classes`, and `class_counts` where it asks for them.
        embedding_dim: Length D of an embedding.
        counts: Train photos of each class, (C,).
    """
    asked = inspect.signature(make).parameters
    known = {"class_counts": counts} if "class_counts" in asked else {}
    return make(embedding_dim=embedding_dim, num_classes=len(counts), **known)

"""The complete cosine matrix."""

from torch import nn

from landmark.head.head import Head


class Full(Head):
    """The loss's own computation: all (B, C) cosines and autograd. Supports every loss."""

    def attach(self, loss: nn.Module) -> None:
        """Leave the loss as it is."""

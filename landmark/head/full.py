"""All cosines at once."""

from typing import ClassVar

from torch import nn

from landmark.head.head import Head


class Full(Head):
    """The loss's own way: the (B, C) cosines, whole, and autograd. Serves every loss."""

    choice: ClassVar[str] = "full"

    def serve(self, loss: nn.Module) -> None:
        """Leaves the loss to itself."""

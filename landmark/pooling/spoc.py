"""Sum-pooled convolutional features."""

from torch import Tensor, nn


class SPoC(nn.Module):
    """Mean over the positions of a map: (B, C, h, w) → (B, C), without a centre prior.

    Babenko, Lempitsky: Aggregating Deep Convolutional Features for Image Retrieval. ICCV 2015,
    section 4.1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C)."""
        return x.mean((-2, -1))

"""Sum-pooled convolutional features."""

from torch import Tensor, nn


class SPoC(nn.Module):
    """Mean over the positions of a map: (B, C, h, w) → (B, C), without a centre prior.

    Source:
        Babenko, Lempitsky: Aggregating Deep Convolutional Features for Image Retrieval. ICCV 2015,
        section 4.1.

    Example:
        >>> import torch
        >>> SPoC()(torch.tensor([[[[1.0, 2.0]], [[4.0, 3.0]]]])).tolist()
        [[1.5, 3.5]]
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C)."""
        return x.mean((-2, -1))

"""Maximum activations of convolutions."""

from torch import Tensor, nn


class MAC(nn.Module):
    """Maximum over the positions of a map: (B, C, h, w) → (B, C).

    Source:
        Tolias, Sicre, Jégou: Particular object retrieval with integral max-pooling of CNN
        activations. ICLR 2016, section 3.2.

    Example:
        >>> import torch
        >>> MAC()(torch.tensor([[[[1.0, 2.0]], [[4.0, 3.0]]]])).tolist()
        [[2.0, 4.0]]
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C)."""
        return x.amax((-2, -1))

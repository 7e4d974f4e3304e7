"""Maximum activations of convolutions."""

from torch import Tensor, nn


class MAC(nn.Module):
    """Maximum over the positions of a map: (B, C, h, w) → (B, C).

    Tolias, Sicre, Jégou: Particular object retrieval with integral max-pooling of CNN activations.
    ICLR 2016, section 3.2.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C)."""
        return x.amax((-2, -1))

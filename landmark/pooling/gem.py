"""Generalised-mean pooling."""

import torch
from torch import Tensor, nn

from landmark.error import UserError


def gem(x: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """Generalised mean over the positions of a map, computed in float32.

    Args:
        x: (B, C, h, w); values below `eps` count as `eps`.
        p: exponent, one number or one a channel: 1 is the mean, infinity the maximum.
        eps: smallest value that is raised to the power.

    Returns:
        (B, C) in the type of `x`.
    """
    exponent = p[..., None, None] if isinstance(p, Tensor) else p
    powers = x.float().clamp(min=eps).pow(exponent)
    return powers.mean((-2, -1)).pow(1.0 / p).to(x.dtype)


class GeM(nn.Module):
    """Generalised mean (B, C, h, w) → (B, C): the p-th root of the mean p-th power.

    Radenović, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation. TPAMI 2019,
    equation 3.

    Args:
        p: exponent, or where training of it starts.
        learned: train the exponent with the network.
        channels: one learned exponent for each of so many channels instead of one for all.
        eps: smallest activation.
    """

    def __init__(
        self,
        p: float = 3.0,
        learned: bool = False,
        channels: int | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if p <= 0:
            raise UserError(f"pooling.p={p}: GeM's exponent is above 0")
        if channels is not None and not learned:
            raise UserError("pooling.channels is for learned exponents: set pooling.learned=true")
        self.p: float | nn.Parameter = p
        if learned:
            self.p = nn.Parameter(torch.full((channels or 1,), float(p)))
        self.channels = channels
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C)."""
        if self.channels not in (None, x.shape[1]):
            raise UserError(
                f"pooling.channels={self.channels}, but the map has {x.shape[1]} channels: "
                f"set pooling.channels={x.shape[1]}"
            )
        return gem(x, self.p, self.eps)

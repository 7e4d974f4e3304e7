"""Generalised-mean pooling."""

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from landmark.error import UserError
from landmark.settings import checked


def gem(x: Tensor, p: float | Tensor = 3.0, eps: float = 1e-6) -> Tensor:
    """Compute the generalised mean over the positions of a map, in float32.

    Args:
        x: Map (B, C, h, w); values below `eps` are raised to it.
        p: Exponent, a scalar or one per channel: 1 gives the mean, infinity the maximum.
        eps: Smallest activation.

    Returns:
        (B, C) in the dtype of `x`.

    Example:
        >>> x = torch.tensor([[[[1.0, 2.0]]]])
        >>> [round(gem(x, p).item(), 3) for p in (1, 3, 20)]
        [1.5, 1.651, 1.932]
    """
    exponent = p[..., None, None] if isinstance(p, Tensor) else p
    powers = x.float().clamp(min=eps).pow(exponent)
    return powers.mean((-2, -1)).pow(1.0 / p).to(x.dtype)


class GeM(nn.Module):
    """Generalised mean (B, C, h, w) → (B, C): the p-th root of the mean p-th power.

    Args:
        p: Exponent, or its initial value if it is learned.
        learned: Train the exponent with the network.
        channels: Number of channels, for one learned exponent each. None means one for all.
        eps: Smallest activation.

    Source:
        Radenović, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation. TPAMI
        2019, equation 3.

    Example:
        >>> round(GeM(p=3)(torch.tensor([[[[1.0, 2.0]]]])).item(), 3)
        1.651
    """

    @checked
    def __init__(
        self,
        p: PositiveFloat = 3.0,
        learned: bool = False,
        channels: PositiveInt | None = None,
        eps: NonNegativeFloat = 1e-6,
    ) -> None:
        super().__init__()
        if channels is not None and not learned:
            raise UserError(
                f"pooling.channels={channels} needs learned exponents. Pass pooling.learned=true."
            )
        self.p: float | nn.Parameter = p
        if learned:
            self.p = nn.Parameter(torch.full((channels or 1,), float(p)))
        self.channels = channels
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C)."""
        if self.channels not in (None, x.shape[1]):
            raise UserError(
                f"pooling.channels={self.channels}, but the map has {x.shape[1]} channels. "
                f"Pass pooling.channels={x.shape[1]}."
            )
        return gem(x, self.p, self.eps)

"""Regional generalised mean, of SuperGlobal."""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from landmark.error import UserError
from landmark.pooling.gem import gem
from landmark.settings import checked

# A smallest activation, for which the power of GeM is still a float32.
_Eps = Annotated[float, Field(gt=0)]
_Window = Annotated[int, Field(gt=0, le=99)]


def regional_gem(
    x: Tensor, window: int = 5, p: float = 2.5, share: float = 0.5, eps: float = 1e-8
) -> Tensor:
    """Mix each value with the generalised mean of the window around it, in float32.

    Args:
        x: Map (B, C, h, w), its sides larger than half a window; values below `eps` are raised to
            it. The map is reflected at its borders.
        window: Side of the window, odd.
        p: Exponent of the mean.
        share: Weight of the mean.
        eps: Smallest activation.

    Returns:
        (B, C, h, w), float32.

    Example:
        >>> x = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]]]])
        >>> [round(value, 2) for value in regional_gem(x, window=3, p=1)[0, 0, 1].tolist()]
        [1.0, 5.0, 1.0]
    """
    x = x.float().clamp(min=eps)
    padded = functional.pad(x.pow(p), [window // 2] * 4, mode="reflect")
    # The layout in which PyTorch averages several times faster on a CPU.
    padded = padded.contiguous(memory_format=torch.channels_last)
    means = functional.avg_pool2d(padded, window, stride=1).pow(1 / p)
    return torch.lerp(x, means, share)


class RegionalGeM(nn.Module):
    """GeM of a map whose values are mixed with those around them: (B, C, h, w) → (B, C).

    It has no weights, and can replace the GeM of a trained network.

    Args:
        p: Exponent of the mean over the map.
        region_p: Exponent of the mean over a window.
        window: Side of the window, odd.
        share: Weight of the window's mean; the rest is that of the value itself.
        unit_length: Divide the result by its norm, as SuperGlobal does before the network's last
            Linear. A neck that was trained on vectors of any length needs false.
        eps: Smallest activation.

    Raises:
        UserError: The window is even. In the forward pass: the map is too small for the window.

    Source:
        Shao et al.: Global Features are All You Need for Image Retrieval and Reranking. ICCV 2023,
        section 3.2 (SuperGlobal).

    Example:
        >>> x = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]]]])
        >>> round(RegionalGeM(p=1, region_p=1, window=3)(x).item(), 2)  # GeM(p=1) gives 1
        1.89
    """

    @checked
    def __init__(
        self,
        p: PositiveFloat = 4.6,
        region_p: PositiveFloat = 2.5,
        window: _Window = 5,
        share: Annotated[float, Field(ge=0, le=1)] = 0.5,
        unit_length: bool = False,
        eps: _Eps = 1e-8,
    ) -> None:
        super().__init__()
        if window % 2 == 0:
            raise UserError(f"pooling.window={window} has no centre. Pass an odd number.")
        self.p, self.region_p = p, region_p
        self.window, self.share = window, share
        self.unit_length = unit_length
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C)."""
        self._check_size(x)
        mixed = regional_gem(x, self.window, self.region_p, self.share, self.eps)
        pooled = gem(mixed, self.p, self.eps)
        return (functional.normalize(pooled) if self.unit_length else pooled).to(x.dtype)

    def _check_size(self, x: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        height, width = x.shape[-2:]
        if min(height, width) <= self.window // 2:
            raise UserError(
                f"pooling.window={self.window} needs a map of at least {self.window // 2 + 1} "
                f"cells along both sides, but it has {width}x{height}. Pass larger images or a "
                "smaller pooling.window."
            )

"""ReLUP: raise small activations of a ResNet, as SuperGlobal does at extraction."""

from typing import Any

from timm.models.resnet import ResNet
from torch import Tensor, nn

from landmark.error import UserError


class ReLUP(nn.Module):
    """Raise values below a threshold to it.

    Args:
        threshold: Smallest activation.

    Source:
        Shao et al.: Global Features are All You Need for Image Retrieval and Reranking. ICCV 2023,
        section 3.2 (SuperGlobal).

    Example:
        >>> import torch
        >>> [round(value, 3) for value in ReLUP(0.014)(torch.tensor([-1.0, 0.01, 2.0])).tolist()]
        [0.014, 0.014, 2.0]
    """

    def __init__(self, threshold: float = 0.014) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Return max(x, threshold)."""
        return x.clamp(min=self.threshold)


def raise_activations(model: nn.Module, name: str, threshold: float) -> None:
    """Replace activations of a ResNet by ReLUP, in place.

    These are the activations after each residual block of the first three stages, and all within
    the blocks of the first stage; the last stage keeps its ReLU.

    Args:
        model: Any ResNet of timm.
        name: Name of the model, for messages.
        threshold: Smallest activation.

    Raises:
        UserError: The model is not a ResNet.
    """
    if not isinstance(model, ResNet):
        raise UserError(f"model.relup is for ResNets, not for {name}. Pass null.")
    stages: Any = (model.layer1, model.layer2, model.layer3)
    for stage in stages:
        for block in stage:
            names = [name for name in ("act1", "act2", "act3") if hasattr(block, name)]
            for activation in names if stage is stages[0] else names[-1:]:
                setattr(block, activation, ReLUP(threshold))

"""A trained backbone averaged with the one that it started from."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from landmark.error import UserError


def check_share(share: float) -> None:
    """Refuses a share outside (0, 1].

    Raises:
        UserError: names the key.
    """
    if not 0 < share <= 1:
        raise UserError(f"task.trained_share={share}: give a share above 0, at most 1")


@torch.no_grad()
def blend(backbone: nn.Module, start: Mapping[str, Tensor], share: float) -> None:
    """Makes each weight `share` · trained + (1 - share) · start, in place.

    What a few hundred photos teach is kept, and less is forgotten of what a pretrained network
    tells apart. Running statistics of BatchNorm are averaged alike, which is exact where training
    held them still (`task.freeze_batchnorm=true`).

    Args:
        backbone: the trained one.
        start: the state dict before training.
        share: of the trained weights, in (0, 1].

    Source:
        Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022, equation 1.
    """
    for name, tensor in backbone.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.lerp(start[name].to(tensor), tensor, share))

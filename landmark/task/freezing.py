"""Holds the first layers of a backbone still."""

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from landmark.error import UserError


def freeze_first_stages(model: nn.Module, count: int) -> list[nn.Module]:
    """Takes the parameters of the first `count` groups of layers out of training.

    Nothing is computed backwards through them, and no activation of theirs is kept. The groups
    are those that timm names for layer-wise learning rates: the stem, then each stage.

    Args:
        model: a timm model.
        count: groups from the photo on.

    Returns:
        The BatchNorm modules inside, whose statistics must be held still as well.

    Raises:
        UserError: the model names no groups, or has no more than `count`.
    """
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise UserError("task.freeze_stages: this backbone names no stages; use 0")
    groups = group_parameters(model, matcher(coarse=True))
    if count >= len(groups):
        raise UserError(
            f"task.freeze_stages={count}: this backbone has {len(groups)} groups of layers, "
            "at least one must learn"
        )
    frozen = {name for group in sorted(groups)[:count] for name in groups[group]}
    parameters = dict(model.named_parameters())
    for name in frozen:
        parameters[name].requires_grad_(False)
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and f"{name}.weight" in frozen
    ]

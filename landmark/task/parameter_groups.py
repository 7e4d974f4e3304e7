"""Optimizer groups: one learning rate for the backbone, one for the neck, one for the head."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from landmark.mistake import UserMistake


def parameter_groups(
    parts: Mapping[str, Iterable[nn.Module]], learning_rates: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    """The trainable parameters of each part as one optimizer group.

    Args:
        parts: name of the part → its modules.
        learning_rates: name of the part → its learning rate; None takes the optimizer's own.

    Returns:
        Groups with `name`, `params` and, where set, `lr`; parts without a trainable parameter
        are left out.

    Raises:
        UserMistake: a learning rate is negative, or nothing at all is trainable.
    """
    groups: list[dict[str, Any]] = []
    for name, modules in parts.items():
        rate = learning_rates[name]
        if rate is not None and rate < 0:
            raise UserMistake(f"task.{name}_lr={rate}: a learning rate is 0 or more")
        parameters = [
            parameter
            for module in modules
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        if parameters:
            chosen = {} if rate is None else {"lr": rate}
            groups.append({"name": name, "params": parameters, **chosen})
    if not groups:
        raise UserMistake("task: every parameter is frozen, nothing is left to train")
    return groups

"""Optimizer groups: one learning rate for the backbone, one for the neck, one for the head."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from landmark.mistake import UserMistake


def parameter_groups(
    parts: Mapping[str, Iterable[nn.Module]],
    learning_rates: Mapping[str, float | None],
    decay_norms: bool = True,
) -> list[dict[str, Any]]:
    """The trainable parameters of each part as one optimizer group, or two.

    Args:
        parts: name of the part → its modules.
        learning_rates: name of the part → its learning rate; None takes the optimizer's own.
        decay_norms: whether weight decay acts on biases and normalisation weights too; if not,
            they make a second group of the part, without decay.

    Returns:
        Groups with `name`, `params` and, where set, `lr` and `weight_decay`; parts without a
        trainable parameter are left out.

    Raises:
        UserMistake: a learning rate is negative, or nothing at all is trainable.
    """
    groups: list[dict[str, Any]] = []
    for name, modules in parts.items():
        rate = learning_rates[name]
        if rate is not None and rate < 0:
            raise UserMistake(f"task.{name}_lr={rate}: a learning rate is 0 or more")
        chosen = {} if rate is None else {"lr": rate}
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        norms = [] if decay_norms else [p for p in parameters if p.ndim < 2]
        others = parameters if decay_norms else [p for p in parameters if p.ndim >= 2]
        if others:
            groups.append({"name": name, "params": others, **chosen})
        if norms:
            groups.append({"name": f"{name}_norms", "params": norms, "weight_decay": 0.0, **chosen})
    if not groups:
        raise UserMistake("task: every parameter is frozen, nothing is left to train")
    return groups

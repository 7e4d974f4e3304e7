"""Optimizer groups: one learning rate for the backbone, one for the neck, one for the head."""

from collections.abc import Iterable, Mapping
from typing import Any

from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import Optimizer

from landmark.error import UserError

_SCALE = "lr_scale"


def parameter_groups(
    parts: Mapping[str, Iterable[nn.Module]],
    learning_rates: Mapping[str, float | None],
    decay_norms: bool = True,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters of each part as one optimizer group, or two.

    Args:
        parts: name of the part → its modules.
        learning_rates: name of the part → its learning rate; None takes the optimizer's own.
        decay_norms: whether weight decay acts on biases and normalisation weights too; if not,
            they make a second group of the part, without decay.
        layer_decay: with it the backbone has such groups a layer, and each layer below the top one
            learns at this share of the rate of the layer above it. What a layer is, timm says for
            each of its models. The groups say the share as `lr_scale`, see `scale_rates`.

    Returns:
        Groups with `name`, `params` and, where set, `lr` and `weight_decay`; parts without a
        trainable parameter are left out.

    Raises:
        UserError: a learning rate is negative, nothing at all is trainable, `layer_decay` is
            outside (0, 1], or the backbone names no layers.

    Source:
        Layer-wise rates: Clark et al., ELECTRA, ICLR 2020, and Bao et al., BEiT, ICLR 2022.
    """
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise UserError(f"task.layer_decay={layer_decay}: give a share in (0, 1], or null")
    groups: list[dict[str, Any]] = []
    for name, modules in parts.items():
        rate = learning_rates[name]
        if rate is not None and rate < 0:
            raise UserError(f"task.{name}_lr={rate}: a learning rate is 0 or more")
        chosen = {} if rate is None else {"lr": rate}
        if name == "backbone" and layer_decay is not None:
            for layer, scale, parameters in _layers(modules, layer_decay):
                more = chosen | {_SCALE: scale}
                groups += _with_and_without_decay(f"{name}_{layer}", parameters, decay_norms, more)
        else:
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
            groups += _with_and_without_decay(name, parameters, decay_norms, chosen)
    if not groups:
        raise UserError("task: every parameter is frozen, nothing is left to train")
    return groups


def scale_rates(optimizer: Optimizer) -> None:
    """Multiplies each group's learning rate by its `lr_scale`, once: before a schedule is made."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop(_SCALE, 1.0)


def _layers(
    modules: Iterable[nn.Module], layer_decay: float
) -> list[tuple[int, float, list[nn.Parameter]]]:
    """Number, share of the rate and trainable parameters of each layer, the lowest first."""
    layers: dict[float, list[nn.Parameter]] = {}
    for module in modules:
        model = getattr(module, "model", module)
        if not hasattr(model, "group_matcher"):
            raise UserError("task.layer_decay: this backbone names no layers; use null")
        for group in param_groups_layer_decay(
            model, layer_decay=layer_decay, weight_decay_exclude_1d=False
        ):
            layers.setdefault(group[_SCALE], []).extend(group["params"])
    return [(number, *layer) for number, layer in enumerate(sorted(layers.items()))]


def _with_and_without_decay(
    name: str, parameters: list[nn.Parameter], decay_norms: bool, chosen: dict[str, Any]
) -> list[dict[str, Any]]:
    norms = [] if decay_norms else [p for p in parameters if p.ndim < 2]
    others = parameters if decay_norms else [p for p in parameters if p.ndim >= 2]
    groups = []
    if others:
        groups.append({"name": name, "params": others, **chosen})
    if norms:
        groups.append({"name": f"{name}_norms", "params": norms, "weight_decay": 0.0, **chosen})
    return groups

"""Optimizer groups, with a learning rate for backbone, neck, head, or each layer."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim import Optimizer

from landmark.error import UserError
from landmark.settings import checked

# Ratio of the learning rate of a layer to that of the layer above it.
LayerDecay = Annotated[float, Field(gt=0, le=1)]

_SCALE = "lr_scale"


@checked
def parameter_groups(
    parts: Mapping[str, Iterable[nn.Module]],
    learning_rates: Mapping[str, float | None],
    decay_norms: bool = True,
    layer_decay: LayerDecay | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters of each part as one or two optimizer groups.

    Args:
        parts: Name of the part → its modules.
        learning_rates: Name of the part → its learning rate. None means the optimizer's.
        decay_norms: Apply weight decay to biases and normalisation weights too. False puts them
            into a second group of the part, without weight decay.
        layer_decay: Ratio of the learning rate of a backbone layer to that of the layer above it.
            Each layer, as timm defines them for the model, then has groups of its own, with their
            factor on the learning rate as `lr_scale`, see `scale_rates`. Defaults to one rate for
            the entire backbone.

    Returns:
        Groups with `name`, `params` and, if set, `lr` and `weight_decay`. Parts without a
        trainable parameter are omitted.

    Raises:
        UserError: Nothing is trainable, or the backbone has no layers for `layer_decay`.

    Source:
        Layer-wise rates: Clark et al., ELECTRA, ICLR 2020, and Bao et al., BEiT, ICLR 2022.
    """
    groups: list[dict[str, Any]] = []
    for name, modules in parts.items():
        rate = learning_rates[name]
        options = {} if rate is None else {"lr": rate}
        if name == "backbone" and layer_decay is not None:
            for layer, scale, parameters in _layers(modules, layer_decay):
                scaled = options | {_SCALE: scale}
                groups += _split_norms(f"{name}_{layer}", parameters, decay_norms, scaled)
        else:
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
            groups += _split_norms(name, parameters, decay_norms, options)
    if not groups:
        raise UserError("task: every parameter is frozen. Leave one part trainable.")
    return groups


def scale_rates(optimizer: Optimizer) -> None:
    """Multiply each group's learning rate by its `lr_scale`, once, before creating a schedule."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop(_SCALE, 1.0)


def _layers(
    modules: Iterable[nn.Module], layer_decay: float
) -> list[tuple[int, float, list[nn.Parameter]]]:
    """Return number, learning-rate factor and trainable parameters of each layer, input first."""
    layers: dict[float, list[nn.Parameter]] = {}
    for module in modules:
        model = getattr(module, "model", module)
        if not hasattr(model, "group_matcher"):
            raise UserError("task.layer_decay: this backbone has no layers. Pass null.")
        for group in param_groups_layer_decay(
            model, layer_decay=layer_decay, weight_decay_exclude_1d=False
        ):
            layers.setdefault(group[_SCALE], []).extend(group["params"])
    return [(number, *layer) for number, layer in enumerate(sorted(layers.items()))]


def _split_norms(
    name: str, parameters: list[nn.Parameter], decay_norms: bool, options: dict[str, Any]
) -> list[dict[str, Any]]:
    norms = [] if decay_norms else [p for p in parameters if p.ndim < 2]
    weights = parameters if decay_norms else [p for p in parameters if p.ndim >= 2]
    groups = []
    if weights:
        groups.append({"name": name, "params": weights, **options})
    if norms:
        groups.append({"name": f"{name}_norms", "params": norms, "weight_decay": 0.0, **options})
    return groups

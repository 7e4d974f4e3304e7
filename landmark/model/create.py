"""Create a timm model by name, without classifier, for images of many sizes if supported."""

import difflib
from collections.abc import Sequence
from typing import Any

import timm
from torch import nn

from landmark.error import UserError


def create_timm_model(
    name: str, image_size: Sequence[int] | None, drop_path: float, pretrained: bool
) -> nn.Module:
    """Create a model; transformers accept any image size if they support it.

    Args:
        name: Name in timm, with or without the tag of its weights.
        image_size: (width, height) for architectures with a fixed size; others ignore it.
        drop_path: Rate of stochastic depth. 0 means none.
        pretrained: Download the weights of `name`.

    Raises:
        UserError: The name is unknown, the architecture does not support stochastic depth or the
            size, or the weights cannot be downloaded.
    """
    _check_name(name)
    options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    if drop_path:
        options["drop_path_rate"] = drop_path
    try:
        return _create(name, **options, dynamic_img_size=True)
    except TypeError:  # the architecture has no such argument
        pass
    if image_size is not None and _is_fixed(name):
        width, height = image_size
        options["img_size"] = (height, width)
    try:
        return _create(name, **options)
    except TypeError as error:
        option = "drop_path" if "drop_path" in str(error) else "image_size"
        raise UserError(
            f"model.backbone={name} has no {option} ({error}). Leave it at its default."
        ) from error


def _is_fixed(name: str) -> bool:
    config = timm.models.get_pretrained_cfg(name)
    return config is not None and config.fixed_input_size


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if ":" in name:  # a name on a hub, which only the hub can check
        return
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f"Did you mean {', '.join(near)}?" if near else "See timm.list_models()."
        raise UserError(f"model.backbone={name} is not a model in timm {timm.__version__}. {hint}")
    if tag and not timm.models.is_model_pretrained(name):
        tagged = timm.list_pretrained(f"{architecture}.*")
        raise UserError(
            f"model.backbone={name}: timm has no weights with this tag. Pass {architecture} or one "
            f"of {', '.join(tagged)}."
        )


def _create(name: str, pretrained: bool, **options: Any) -> nn.Module:  # noqa: ANN401
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError:
        raise
    except Exception as error:
        if not pretrained:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"weights=timm: the weights of {name} cannot be downloaded ({reason[:200]}). "
            "Pass a local file: weights=PATH.safetensors or PATH.pth."
        ) from error

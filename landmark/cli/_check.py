"""Check the complete configuration before anything heavy is imported."""

import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from landmark.cli._errors import nearest
from landmark.cli._signature import Parameter, read_signature
from landmark.error import UserError
from landmark.settings import check_value

Settings = TypeVar("Settings")
_HYDRA_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def check_config(config: DictConfig, settings: type[Settings]) -> Settings:
    """Check a command's own settings and the arguments of every `_target_`.

    Args:
        config: Composed configuration; interpolations are resolved.
        settings: Dataclass of the command's own settings.

    Returns:
        The command's own settings.

    Raises:
        UserError: A setting is missing, unknown, or does not fit its annotation; names it.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"missing required setting '{missing[0]}'. Pass {missing[0]}=<value>.")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for name, annotation in typing.get_type_hints(settings, include_extras=True).items():
        check_value(name, plain[name], annotation)
    _check_arguments(plain, "")
    return settings(**{name: plain[name] for name in settings.__annotations__})


def _check_arguments(node: Any, path: str) -> None:  # noqa: ANN401
    """Check the arguments of every `_target_` at and below a node of the configuration."""
    if isinstance(node, list):
        for index, value in enumerate(node):
            _check_arguments(value, f"{path}[{index}]")
    if not isinstance(node, Mapping):
        return
    parameters = _parameters(node, path)
    for key, value in node.items():
        inner = f"{path}.{key}" if path else str(key)
        _check_arguments(value, inner)
        parameter = parameters.get(str(key))
        is_constructed = isinstance(value, Mapping) and "_target_" in value
        # A default need not fit its annotation.
        if parameter is not None and not is_constructed and value != parameter.default:
            check_value(inner, value, parameter.annotation)


def _parameters(node: Mapping[str, Any], path: str) -> Mapping[str, Parameter]:
    """Return the parameters of the node's `_target_`; empty if its source cannot be read."""
    target = node.get("_target_")
    signature = read_signature(target) if isinstance(target, str) else None
    if signature is None:
        return {}
    for key in node:
        is_known = key in signature.parameters or key in _HYDRA_KEYS or signature.is_open
        # An auxiliary loss has a weight beside its arguments.
        if not is_known and not (path.startswith("auxiliary.") and key == "weight"):
            names = sorted(signature.parameters)
            raise UserError(
                f"{path}.{key} is not an argument of {target}.{nearest(str(key), names)} "
                f"Valid arguments: {', '.join(names)}."
            )
    return signature.parameters

"""A composed configuration checked as a whole, before anything heavy is imported."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from landmark.cli._signature import UNKNOWN, Parameter, read_signature
from landmark.error import UserError
from landmark.settings import check_value

Settings = TypeVar("Settings")
_HYDRAS_OWN = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def check_config(config: DictConfig, settings: type[Settings]) -> Settings:
    """Check a command's own settings and the arguments of every `_target_`.

    Args:
        config: Composed; interpolations are resolved.
        settings: Dataclass of the command's own settings.

    Returns:
        The own settings.

    Raises:
        UserError: A required setting is missing, or one does not fit its annotation; names it.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"missing required setting '{missing[0]}'. Pass {missing[0]}=<value>.")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for key, value, annotation in values(plain, settings):
        check_value(key, value, annotation)
    own = {field.name: plain[field.name] for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    return settings(**own)


def values(plain: Mapping[str, Any], settings: type) -> Iterator[tuple[str, Any, Any]]:
    """Key, value and annotation of every setting that has an annotation.

    Raises:
        UserError: A `_target_` takes no argument of that name.
    """
    for name, annotation in typing.get_type_hints(settings, include_extras=True).items():
        yield name, plain[name], annotation
    yield from _arguments(plain, "")


def _arguments(node: Any, path: str) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401
    if isinstance(node, list):
        for place, value in enumerate(node):
            yield from _arguments(value, f"{path}[{place}]")
    if not isinstance(node, Mapping):
        return
    parameters = _parameters(node, path)
    for key, value in node.items():
        inner = f"{path}.{key}" if path else str(key)
        yield from _arguments(value, inner)
        parameter = parameters.get(str(key))
        is_made = isinstance(value, Mapping) and "_target_" in value
        if parameter is None or is_made:
            continue
        if parameter.default is UNKNOWN or value != parameter.default:
            yield inner, value, parameter.annotation


def _parameters(node: Mapping[str, Any], path: str) -> Mapping[str, Parameter]:
    """What the node's `_target_` takes; nothing where its source cannot be read."""
    target = node.get("_target_")
    signature = read_signature(target) if isinstance(target, str) else None
    if signature is None:
        return {}
    for key in node:
        known = key in signature.parameters or key in _HYDRAS_OWN or signature.is_open
        # Loss groups hold a weight beside the arguments where they are auxiliary.
        if not known and not (path.startswith("auxiliary.") and key == "weight"):
            names = sorted(signature.parameters)
            near = get_close_matches(str(key), names, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{path}.{key} is unknown to {target}.{hint} It takes: {', '.join(names)}."
            )
    return signature.parameters

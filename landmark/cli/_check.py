"""Check the complete configuration before anything heavy is imported."""

import shlex
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError
from pydantic import PositiveFloat

from landmark.cli._errors import nearest
from landmark.cli._library import ANNOTATIONS
from landmark.cli._overrides import shell_form
from landmark.cli._signature import Parameter, read_signature
from landmark.error import UserError
from landmark.settings import accepts, accepts_text, check_value

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
    plain = _resolved(config)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"missing required setting '{missing[0]}'. Pass {missing[0]}=<value>.")
    for name, annotation in typing.get_type_hints(settings, include_extras=True).items():
        if name not in plain:
            raise UserError(f"the setting {name} is removed. Leave out ~{name}.")
        _check_setting(name, plain[name], annotation, may_be_empty=False)
    _check_arguments(plain, "")
    return settings(**{name: plain[name] for name in settings.__annotations__})


def _resolved(config: DictConfig) -> Any:  # noqa: ANN401
    """Convert to dictionaries, lists and values; name an interpolation that has no value."""
    try:
        return OmegaConf.to_container(config, resolve=True)
    except InterpolationResolutionError as error:
        key = str(error.full_key)
        nodes = OmegaConf.to_container(config, resolve=False)
        for part in key.replace("[", ".").replace("]", "").split("."):
            nodes = nodes[int(part)] if isinstance(nodes, list) else nodes[part]  # type: ignore
        reason = str(error).partition("\n")[0].rstrip(".")
        # Hydra resolves the settings of a `_target_` twice, which leaves no way to escape.
        way_out = (
            "Rename the file or folder if this is its name."
            if "." in key
            else f"For this text without interpolation, type {shell_form(key, str(nodes))}."
        )
        raise UserError(f"{key}={nodes}: {reason}. {way_out}") from error


def check_groups(config: DictConfig, defaults: Mapping[str, Any], lists: Collection[str]) -> None:
    """Check that each group of the configuration has settings, not a value.

    Args:
        config: Composed configuration.
        defaults: Groups of the command's defaults list with their choices; a group without a
            default choice may be absent.
        lists: Groups that accept several choices.

    Raises:
        UserError: A value replaces the settings of a group, or a group is missing.
    """
    for name, choice in defaults.items():
        group, _, package = name.partition("@")
        key = package or group
        if group == "experiment":
            continue
        node = config.get(key)
        if node is None:
            if isinstance(choice, str):
                raise UserError(
                    f"the settings of {key} are missing. Leave out ~{key} or {key}=null."
                )
            continue
        nodes = {key: node}
        if group in lists and OmegaConf.is_dict(node):
            nodes = {f"{key}.{inner}": value for inner, value in node.items()}
        for path, value in nodes.items():
            if not (OmegaConf.is_dict(value) and isinstance(value.get("_target_"), str)):
                raise UserError(
                    f"{path}={value} is not valid: {path} is a group of settings. "
                    f"Pass {path}.<key>=<value>{f', or {name}=<choice>' if choice != '' else ''}."
                )


def check_toy_root(config: DictConfig, overrides: Sequence[str]) -> None:
    """Reject `data.root=PHOTOS` with `data=` forgotten: the toy world is drawn below its root.

    Raises:
        UserError: `data.root` is given, and the toy world is only the default.
    """
    keys = {override.partition("=")[0].lstrip("+") for override in overrides}
    node = config.get("data")
    if "data.root" not in keys or "data" in keys or not OmegaConf.is_dict(node):
        return
    if node.get("_target_") == "landmark.data.Toy":
        root = shlex.quote(f"data.root={node['root']}")
        raise UserError(
            f"{root} is given, but data=toy does not read photos: it draws its own. Pass "
            f"data=folder {root} to use your photos, or data=toy {root} to draw the toy world "
            "there."
        )


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
        if parameter is not None and not is_constructed and not _is_default(value, parameter):
            is_library = not str(node["_target_"]).startswith("landmark.")
            _check_setting(inner, value, parameter.annotation, may_be_empty=is_library)


def _is_default(value: object, parameter: Parameter) -> bool:
    """Whether a value is the default, which need not fit its annotation; `True` is not 1."""
    return type(value) is type(parameter.default) and value == parameter.default


def _check_setting(key: str, value: object, annotation: Any, may_be_empty: bool) -> None:  # noqa: ANN401
    """Check a value of the configuration as `check_value` does.

    Raises:
        UserError: The value does not fit, or is an empty text. If text fits, the message shows how
            to pass the value as text.
    """
    if value == "" and accepts_text(annotation) and not may_be_empty:
        raise UserError(f"{key}= is empty. Pass {key}=<value>.")
    try:
        check_value(key, value, annotation)
    except UserError as error:
        is_number = isinstance(value, int | float)
        if is_number and accepts_text(annotation) and not accepts(1, annotation):
            raise UserError(f"{error} For a name, type {shell_form(key, str(value))}.") from None
        raise


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
    parameters = dict(signature.parameters)
    if path.startswith("auxiliary."):
        parameters["weight"] = Parameter(PositiveFloat)
    for key, annotation in ANNOTATIONS.get(str(target), {}).items():
        parameters[key] = replace(parameters.get(key, Parameter()), annotation=annotation)
    return parameters

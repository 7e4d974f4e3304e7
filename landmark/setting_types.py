"""Settings of a wrong type, refused by name before anything works with them."""

import importlib
import inspect
import json
import os
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from landmark.mistake import UserMistake

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
}


def refuse_wrong_settings(config: DictConfig, hints: Mapping[str, object]) -> None:
    """Holds the settings that go to no constructor against their types.

    Args:
        config: composed.
        hints: the type of each key, as an annotation.

    Raises:
        UserMistake: names the key, its value and what it should be.
    """
    for key, hint in hints.items():
        value = config[key]
        _refuse(key, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value, hint)


def refuse_wrong_arguments(config: DictConfig) -> None:
    """Holds each setting below a `_target_` against the annotation of that constructor.

    What has no annotation passes. The constructors are imported, with all they need.

    Raises:
        UserMistake: names the key, its value and what it should be.
    """
    for key, value, hint in _arguments(OmegaConf.to_container(config, resolve=True), ""):
        _refuse(key, value, hint)


def _refuse(key: str, value: Any, hint: Any) -> None:  # noqa: ANN401
    if not _fits(value, hint):
        written = json.dumps(value) if value is None or isinstance(value, bool) else value
        raise UserMistake(f"{key}={written}: give {_in_words(hint)}")


def _arguments(node: Any, path: str) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401
    """Key, value and annotation of every argument that is not itself made by a `_target_`."""
    if isinstance(node, list):
        for place, value in enumerate(node):
            yield from _arguments(value, f"{path}[{place}]")
    if not isinstance(node, dict):
        return
    parameters = _parameters(node["_target_"]) if "_target_" in node else {}
    for key, value in node.items():
        inner = f"{path}.{key}" if path else str(key)
        yield from _arguments(value, inner)
        known = parameters.get(str(key))
        made = isinstance(value, dict) and "_target_" in value
        if known is not None and not made and value != known.default:
            yield inner, value, known.annotation


def _parameters(target: str) -> Mapping[str, inspect.Parameter]:
    """None of what cannot be imported: whoever makes it says why."""
    try:
        module, _, name = target.rpartition(".")
        return inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, ValueError):
        return {}


def _options(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:  # noqa: ANN401
    return any(_fits_one(value, option) for option in _options(hint))


def _fits_one(value: Any, hint: Any) -> bool:  # noqa: ANN401
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return value in inner
    if kind in (Any, object, inspect.Parameter.empty) or not isinstance(kind, type):
        return True
    return _fits_class(value, kind, inner)


def _fits_class(value: Any, kind: type, inner: tuple[Any, ...]) -> bool:  # noqa: ANN401
    if kind in (int, float):
        numbers = int if kind is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if kind is str or issubclass(kind, os.PathLike):
        return isinstance(value, str)
    if issubclass(kind, Mapping):
        return isinstance(value, dict)
    if _is_list(kind):
        return isinstance(value, list) and _all_fit(value, kind, inner)
    if kind in _WORDS:
        return isinstance(value, kind)
    return not isinstance(value, bool | int | float | str | None)


def _is_list(kind: type) -> bool:
    """Not so for what merely holds several things, as a tensor."""
    return issubclass(kind, Collection) and kind.__module__ in ("builtins", "collections.abc")


def _all_fit(values: list[Any], kind: type, inner: tuple[Any, ...]) -> bool:
    if _is_fixed(kind, inner):
        return len(values) == len(inner) and all(map(_fits, values, inner))
    return not inner or all(_fits(value, inner[0]) for value in values)


def _is_fixed(kind: Any, inner: tuple[Any, ...]) -> bool:  # noqa: ANN401
    return kind is tuple and bool(inner) and inner[-1] is not Ellipsis


def _in_words(hint: Any) -> str:  # noqa: ANN401
    words = [_one_in_words(option) for option in _options(hint)]
    of_yaml = [word for word in words if not word.startswith("what makes")]
    return " or ".join(dict.fromkeys(of_yaml or words))


def _one_in_words(hint: Any) -> str:  # noqa: ANN401
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return "one of " + ", ".join(map(str, inner))
    if kind in _WORDS or not isinstance(kind, type):
        return _WORDS.get(kind, str(hint))
    if issubclass(kind, Mapping):
        return "key: value pairs"
    if _is_fixed(kind, inner):
        return f"[{', '.join(map(_in_words, inner))}]"
    if _is_list(kind):
        return f"a list, each {_in_words(inner[0])}" if inner else "a list"
    return "a path" if issubclass(kind, os.PathLike) else f"what makes a {kind.__name__}"

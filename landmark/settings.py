"""Check settings against the annotations of a signature, with pydantic.

An annotation gives type, choices and range: `Annotated[float, Field(ge=0, lt=1)]`,
`Literal["best", "last"]`. The commands check the complete configuration before anything heavy is
imported; `checked` does the same for a constructor that is called from Python.
"""

import inspect
import json
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from functools import cache, wraps
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import Field

from landmark.error import UserError

# What numpy, torch and Lightning accept.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Workers = Annotated[int, Field(ge=0, le=256)]
BatchSize = Annotated[int, Field(gt=0, le=2**16)]
# k of metrics at k: one or several.
Ranks = (
    Annotated[int, Field(gt=0)] | Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)]
)
# Bounds of numbers without one of their own: torch, faiss and others have 32-bit numbers.
_LARGEST = {int: 2**31 - 1, float: 1e30}


class _OBJECT:
    """Any class that YAML cannot express: no scalar fits."""


Function = TypeVar("Function", bound=Callable[..., Any])

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}
_SCALARS = (bool, int, float, str, type(None))
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}


def check_value(key: str, value: object, annotation: Any) -> None:  # noqa: ANN401
    """Check one value from YAML or Python.

    Numbers are not converted: `true` and `"3"` are not whole numbers. Only builtin types,
    choices and ranges are checked: any other part of an annotation accepts everything. The values
    of a mapping are checked one by one, so that the message names the entry.

    Args:
        key: Name of the setting, as the user writes it.
        value: Its value.
        annotation: Its type hint.

    Raises:
        UserError: The value does not fit; names the key, the value and what to pass.

    Example:
        >>> from pydantic import Field
        >>> check_value("loss.margin", -1, Annotated[float, Field(ge=0)])
        Traceback (most recent call last):
        landmark.error.UserError: loss.margin=-1 is not valid. Pass a number >= 0.
    """
    if isinstance(value, Mapping) and (entry := _entry_annotation(annotation)) is not None:
        for name, inner in value.items():
            check_value(f"{key}.{name}", inner, entry)
        return
    if not accepts(value, annotation):
        text = json.dumps(value) if value is None or isinstance(value, bool) else value
        words = in_words(annotation)
        largest = _LARGEST.get(type(value), math.inf)
        if isinstance(value, int | float) and abs(value) > largest and "<" not in words:
            words += f", at most {_number(largest)}"
        raise UserError(f"{key}={text} is not valid. Pass {words}.")


def _entry_annotation(annotation: Any) -> Any:  # noqa: ANN401
    """Return the annotation of the values of a mapping; None if they are not checked."""
    for option in options_of(annotation):
        origin, inner = get_origin(option), get_args(option)
        if isinstance(origin, type) and issubclass(origin, Mapping) and len(inner) == 2:
            return None if in_words(inner[1]) == "a value" else inner[1]
    return None


def checked(function: Function) -> Function:
    """Decorate a constructor or function to check its arguments before it runs.

    Raises:
        UserError: On a call, if an argument does not fit its annotation; names the first.
    """
    signature = inspect.signature(function)
    is_constructor = function.__name__ == "__init__"

    @wraps(function)
    def wrapper(*args: Any, **keywords: Any) -> Any:  # noqa: ANN401
        hints = _hints(function)
        # The class that is constructed, also when its base class checks the argument.
        owner = type(args[0]).__name__ if is_constructor else function.__name__
        try:
            arguments = signature.bind(*args, **keywords).arguments
        except TypeError:
            return function(*args, **keywords)  # raises Python's own message
        for name, value in arguments.items():
            if name in hints and value is not signature.parameters[name].default:
                check_value(f"{owner}: {name}", value, hints[name])
        return function(*args, **keywords)

    return wrapper  # type: ignore[return-value]


@cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # a name imported under TYPE_CHECKING only
        hints = {k: v for k, v in function.__annotations__.items() if not isinstance(v, str)}
    return {name: hint for name, hint in hints.items() if name != "return"}


def in_words(annotation: Any) -> str:  # noqa: ANN401
    """Describe the values that an annotation accepts.

    Example:
        >>> in_words(Literal["best", "last"] | None)
        'one of best, last or null'
        >>> in_words(Sequence[int])
        'a list, each a whole number'
    """
    words = [_option_in_words(option) for option in options_of(annotation)]
    if "a path" in words:
        words = [word for word in words if word != "text"]
    return " or ".join(dict.fromkeys(word for word in words if word)) or "a value"


def _option_in_words(option: Any) -> str:  # noqa: ANN401, PLR0911 - a table
    origin, inner = get_origin(option) or option, get_args(option)
    if origin is Annotated:
        return _annotated_in_words(inner[0], inner[1:])
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner)) if len(inner) > 1 else str(inner[0])
    if not isinstance(origin, type) or origin in _WORDS:
        return _WORDS.get(origin, "")
    if issubclass(origin, PurePath):
        return "a path"
    if issubclass(origin, Mapping):
        return "key: value pairs"
    if _is_fixed_tuple(origin, inner):
        return f"[{', '.join(map(in_words, inner))}]"
    if _is_list(origin):
        return f"a list, each {in_words(inner[0])}" if inner else "a list"
    return ""


def _annotated_in_words(annotation: Any, metadata: Sequence[Any]) -> str:  # noqa: ANN401
    fields = [piece for item in metadata for piece in (getattr(item, "metadata", None) or [item])]
    for item in metadata:
        if getattr(item, "description", None):
            return str(item.description)
    bounds = [
        f"{sign} {_number(getattr(piece, name))}"
        for name, sign in _BOUNDS.items()
        for piece in fields
        if isinstance(getattr(piece, name, None), int | float)
    ]
    words = in_words(annotation)
    if any(getattr(piece, "min_length", 0) for piece in fields):
        words = words.replace("a list", "a list of one or more", 1)
    return f"{words} {' and '.join(bounds)}".strip()


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def accepts(value: object, annotation: Any) -> bool:  # noqa: ANN401
    """Whether `check_value` accepts the value."""
    from pydantic import ValidationError

    options = [_checkable(option) for option in options_of(annotation)]
    if Any in options:
        return True
    if _OBJECT in options and not isinstance(value, _SCALARS):
        return True
    plain = _plain(value)
    if not isinstance(plain, (*_SCALARS, list, dict)):
        return False
    text = json.dumps(plain, default=lambda _: {})  # objects in a list or mapping
    for option in options:
        try:
            if option is not _OBJECT:
                _adapter(option).validate_json(text, strict=True)
                return True
        except ValidationError:
            pass
    return False


def accepts_text(annotation: Any) -> bool:  # noqa: ANN401
    """Whether any text is valid: the annotation has a plain `str` or a path among its options."""
    options = (one for one in options_of(annotation) if isinstance(one, type))
    return any(issubclass(option, str | PurePath) for option in options)


def _adapter(annotation: Any) -> Any:  # noqa: ANN401
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Convert tuples, OmegaConf's lists, paths and numpy's numbers to JSON types."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    if type(value).__module__ == "numpy":
        return value.tolist()
    return value


def _checkable(annotation: Any) -> Any:  # noqa: ANN401, PLR0911 - a table
    """Replace classes that a configuration cannot express by `_OBJECT`."""
    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (Union, types.UnionType):
        options = [_checkable(option) for option in inner]
        if Any in options or _OBJECT in options:
            return Any
        return Union[tuple(options)]  # noqa: UP007
    if annotation in _LARGEST:
        largest = _LARGEST[annotation]
        return Annotated[annotation, Field(ge=-largest, le=largest)]
    if origin is Annotated:
        first = inner[0] if _has_upper_bound(inner) else _checkable(inner[0])
        return first if first in (Any, _OBJECT) else Annotated[(first, *inner[1:])]
    if origin is Literal or origin in _WORDS or annotation is None:
        return annotation
    if not isinstance(origin, type) or origin is object:
        return Any
    if issubclass(origin, PurePath):
        return annotation
    if issubclass(origin, Mapping):
        return Mapping[str, Any]
    if _is_fixed_tuple(origin, inner):
        return tuple[tuple(map(_element, inner))]  # type: ignore[misc]
    if _is_list(origin):
        return list[_element(inner[0])] if inner else list  # type: ignore[misc]
    return _OBJECT


def _has_upper_bound(annotated: Sequence[Any]) -> bool:
    first, *metadata = annotated
    fields = [piece for item in metadata for piece in (getattr(item, "metadata", None) or [item])]
    return first in _LARGEST and any(hasattr(p, "le") or hasattr(p, "lt") for p in fields)


def _element(annotation: Any) -> Any:  # noqa: ANN401
    checkable = _checkable(annotation)
    return Any if checkable is _OBJECT else checkable


def options_of(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Return the members of a union; the annotation itself if it is no union."""
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else (annotation,)


def _is_list(origin: type) -> bool:
    """Whether a list fits; it does not for other sized classes, such as a tensor."""
    return issubclass(origin, Collection) and origin.__module__ in ("builtins", "collections.abc")


def _is_fixed_tuple(origin: Any, inner: tuple[Any, ...]) -> bool:  # noqa: ANN401
    return origin is tuple and bool(inner) and inner[-1] is not Ellipsis

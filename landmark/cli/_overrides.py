"""Read values of paths and text as the user typed them, also where Hydra's grammar differs.

`data.root=/photos (1)` is no valid override, `data.root=2019` is a number and `data.root=a,b` is a
sweep. Where the setting is text, such a value is quoted before Hydra reads it.
"""

import os
import re
import shlex
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from landmark.cli._errors import is_group
from landmark.cli._signature import read_signature
from landmark.error import UserError
from landmark.settings import accepts, accepts_text

# Hydra's own settings that are paths.
_HYDRA_PATHS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_FUNCTION = re.compile(r"\w+\(.*\)")
_UNCLOSED = re.compile(r"\$\{(?![^}]+\})")


@dataclass(frozen=True)
class _Typed:
    """An override as typed, and as Hydra parses it (None if the grammar rejects it)."""

    line: str
    parsed: Override | None

    @property
    def key(self) -> str:
        return self.line.partition("=")[0]

    @property
    def text(self) -> str:
        return self.line.partition("=")[2]

    @property
    def name(self) -> str:
        """The key without `+`, `++` or `~`."""
        return self.key.lstrip("+~")

    @property
    def is_sweep(self) -> bool:
        return self.parsed is not None and self.parsed.is_sweep_override()

    @property
    def value(self) -> Any:  # noqa: ANN401
        return None if self.parsed is None else self.parsed.value()

    @property
    def is_explicit(self) -> bool:
        """Whether the user has quoted or escaped the value, or uses Hydra's own syntax."""
        if self.parsed is None:
            return False
        if isinstance(self.parsed._value, QuotedString) or "${" in self.text:
            return True
        if self.is_sweep and "," not in self.text.partition("(")[0]:
            return True  # choice(a,b), range(1,3)
        return bool(_FUNCTION.fullmatch(self.text)) or (
            isinstance(self.value, str) and "\\" in self.text
        )


def quoted(text: str) -> str:
    r"""Return `text` as a quoted value of Hydra's grammar; complete `${…}` stay interpolations.

    Example:
        >>> print(quoted("my photos (1)"), quoted('say "a"'))
        "my photos (1)" "say \"a\""
    """
    return str(QuotedString(_UNCLOSED.sub(r"\\${", text), Quote.double).with_quotes())


def shell_form(key: str, text: str) -> str:
    """Return the override to type in a POSIX shell so that `key` is exactly `text`.

    Example:
        >>> print(shell_form("data.root", "c,d"))
        'data.root="c,d"'
    """
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return shlex.quote(f"{key}={QuotedString(escaped, Quote.double).with_quotes()}")


def quote_overrides(
    overrides: Sequence[str],
    settings: type,
    defaults: Iterable[str],
    compose: Callable[..., DictConfig],
    folders: Sequence[Path],
    is_sweep: bool,
) -> list[str]:
    """Quote the values of paths and text that Hydra would reject or read as something else.

    Args:
        overrides: Overrides as typed.
        settings: Dataclass of the command's own settings.
        defaults: Groups of the command's defaults list.
        compose: Composes the command's configuration from overrides; called only if a value of a
            group's setting may need quotes.
        folders: Configuration folders.
        is_sweep: Whether commas separate the jobs of a sweep (`-m`).

    Raises:
        UserError: An argument is not KEY=VALUE, is not valid UTF-8, or chooses for a package.
    """
    all_typed = [_read(override) for override in overrides]
    _check_packages(all_typed, defaults)
    hints = typing.get_type_hints(settings, include_extras=True)
    hints |= dict.fromkeys(_HYDRA_PATHS, str)
    result, unknown = [], []
    for index, typed in enumerate(all_typed):
        if typed.name in _HYDRA_PATHS and not typed.text:
            raise UserError(f"{typed.line} is empty. Pass a folder.")
        if is_group(typed.name.partition("@")[0], folders):
            result.append(_choice(typed))
        elif typed.name in hints:
            result.append(_as_annotated(typed, hints[typed.name], is_sweep))
        else:
            result.append(_provisional(typed, is_sweep))
            if typed.text and not (typed.value == typed.text or typed.is_explicit):
                unknown.append(index)
    if not unknown:
        return result
    try:
        config = compose(*map(_first_of_sweep, result))
    except (HydraException, OmegaConfBaseException):
        return result  # reported when the complete configuration is composed
    for index in unknown:
        annotation = _annotation(config, all_typed[index].name)
        if annotation is not None:
            result[index] = _as_annotated(all_typed[index], annotation, is_sweep)
    return result


def _read(override: str) -> _Typed:
    try:
        override.encode()
    except UnicodeEncodeError:
        name = os.fsencode(override).decode(errors="replace")
        raise UserError(f"{name} is not valid UTF-8. Rename the file or folder.") from None
    if "=" not in override and not override.startswith("~"):
        raise UserError(f"{override} is not a setting. Pass KEY=VALUE, in quotes if it has spaces.")
    parsed = _parse(override)
    key = override.partition("=")[0]
    if parsed is None and _parse(f"{key}=x") is None:
        raise UserError(f"{override}: {key} is not the name of a setting. Pass KEY=VALUE.")
    return _Typed(override, parsed)


def _parse(override: str) -> Override | None:
    """Parse an override; None if Hydra's grammar rejects it."""
    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, ValueError):
        return None


def _check_packages(overrides: Sequence[_Typed], defaults: Iterable[str]) -> None:
    """Reject `test_image=px96`: the choice of a group for another package needs both names."""
    for entry in defaults:
        group, _, package = entry.partition("@")
        for typed in overrides:
            if typed.name == package and not typed.key.startswith("~"):
                raise UserError(
                    f"{typed.line} is not valid: {package} contains the settings of {group}=. "
                    f"Pass {group}@{package}={typed.text}."
                )


def _choice(typed: _Typed) -> str:
    """Quote a choice that is a number, null or the like: it is the name of a file."""
    is_name = isinstance(typed.value, str | list) or typed.is_sweep or typed.key.startswith("~")
    return typed.line if is_name else _quoted_override(typed)


def _provisional(typed: _Typed, is_sweep: bool) -> str:
    """Quote a value of unknown type if Hydra rejects it."""
    return _quoted_override(typed, is_sweep) if typed.parsed is None else typed.line


def _as_annotated(typed: _Typed, annotation: Any, is_sweep: bool) -> str:  # noqa: ANN401
    """Quote a value that its annotation accepts as text and not as Hydra reads it."""
    if typed.is_explicit or not typed.text:
        return typed.line
    if not accepts_text(annotation):
        return _list_of_text(typed, annotation) or _provisional(typed, is_sweep)
    if typed.is_sweep and is_sweep:
        return _quoted_override(typed, is_sweep)
    if typed.parsed is not None and not typed.is_sweep:
        is_same_text = typed.value == typed.text
        is_other_kind = not isinstance(typed.value, str) and accepts(typed.value, annotation)
        if is_same_text or is_other_kind:
            return typed.line
    return _list_of_text(typed, annotation) or _quoted_override(typed, is_sweep)


def _list_of_text(typed: _Typed, annotation: Any) -> str | None:  # noqa: ANN401
    """Quote the elements of `[a,b]`; None if the annotation has no list of text."""
    is_list = typed.text.startswith("[") and typed.text.endswith("]")
    if not is_list or not accepts(["a"], annotation) or accepts(typed.value, annotation):
        return None
    elements = (element.strip() for element in typed.text[1:-1].split(","))
    return f"{typed.key}=[{','.join(map(_quoted_element, elements))}]"


def _quoted_override(typed: _Typed, is_sweep: bool = False) -> str:
    parts = typed.text.split(",") if is_sweep else [typed.text]
    return f"{typed.key}={','.join(map(_quoted_element, parts))}"


def _quoted_element(text: str) -> str:
    """Quote a value, or leave one that is in quotes; `~` at its start is the home folder."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    if text == "~" or text.startswith("~/"):
        text = str(Path(text).expanduser())
    return quoted(text)


def _first_of_sweep(override: str) -> str:
    """Return the override of a sweep's first job."""
    parsed = _parse(override)
    if parsed is None or not parsed.is_sweep_override():
        return override
    return f"{parsed.get_key_element()}={next(parsed.sweep_string_iterator())}"


def _annotation(config: DictConfig, name: str) -> Any:  # noqa: ANN401
    """Return the annotation of an argument of a `_target_`; None if it has none."""
    path, _, key = name.rpartition(".")
    node = OmegaConf.select(config, path) if path else None
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    signature = read_signature(target) if isinstance(target, str) else None
    parameters: Mapping[str, Any] = {} if signature is None else signature.parameters
    return parameters[key].annotation if key in parameters else None

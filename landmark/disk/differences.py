"""Recorded settings compared with the requested ones."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from landmark.error import UserError

_LONGEST_VALUE = 60


def as_recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they return from JSON: tuples become lists, keys become strings.

    Raises:
        TypeError: JSON cannot hold a value.
    """
    return json.loads(json.dumps(dict(settings)))


def differences(
    recorded: Mapping[str, Any],
    requested: Mapping[str, Any],
    ignored: Collection[str] = (),
) -> dict[str, tuple[object, object]]:
    """Map each requested setting that was recorded differently to (recorded, requested).

    Keys of nested mappings are joined by dots. At the top level, recorded keys that are not
    requested do not count: counts, versions, dates. Inside a nested mapping they do.

    Args:
        recorded: What the artifact says about itself.
        requested: What it must agree with.
        ignored: Dotted keys that may differ, with all that is nested in them.

    Example:
        >>> differences({"scales": [1.0], "image": {"fit": "crop"}, "n": 3},
        ...             {"scales": [1.0], "image": {"fit": "squash"}})
        {'image.fit': ('crop', 'squash')}
    """
    return _differences(recorded, as_recorded(requested), ignored, "")


def _differences(
    recorded: Mapping[str, Any], requested: Mapping[str, Any], ignored: Collection[str], prefix: str
) -> dict[str, tuple[object, object]]:
    different: dict[str, tuple[object, object]] = {}
    for name, value in requested.items():
        key, old = f"{prefix}{name}", recorded.get(name)
        if key in ignored:
            continue
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            both = dict.fromkeys(old) | dict(value)
            different |= _differences(old, both, ignored, f"{key}.")
        elif old != value:
            different[key] = (old, value)
    return different


def check_same_settings(
    recorded: Mapping[str, Any],
    requested: Mapping[str, Any],
    subject: str,
    advice: str,
    ignored: Collection[str] = (),
) -> None:
    """Stop where a setting differs.

    Args:
        recorded: What the artifact says about itself.
        requested: What it must agree with.
        subject: Begins the message: the path and what is there.
        advice: Ends the message: what to do.
        ignored: As in `differences`.

    Raises:
        UserError: Names each setting that differs, with both values.
    """
    different = differences(recorded, requested, ignored)
    if different:
        pairs = (f"{key} ({_short(a)}, now {_short(b)})" for key, (a, b) in different.items())
        raise UserError(f"{subject} with a different {', '.join(pairs)}. {advice}")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"

"""Compare recorded settings with requested ones."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from landmark.error import UserError

_MAX_VALUE_LENGTH = 60


def as_recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON restores them: tuples become lists, keys become strings.

    Raises:
        TypeError: A value is not JSON-serialisable.
    """
    return json.loads(json.dumps(dict(settings)))


def differences(
    recorded: Mapping[str, Any],
    requested: Mapping[str, Any],
    ignored: Collection[str] = (),
) -> dict[str, tuple[object, object]]:
    """Map each requested setting that was recorded differently to (recorded, requested).

    Keys of nested mappings are joined by dots. Recorded keys that are not requested (counts,
    versions, dates) are ignored at the top level, but not inside a nested mapping.

    Args:
        recorded: Settings in the artifact's metadata.
        requested: Settings to compare with.
        ignored: Dotted keys that may differ, including everything nested in them.

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
    """Check that no setting differs.

    Args:
        recorded: Settings in the artifact's metadata.
        requested: Settings to compare with.
        subject: Start of the message: the path and what it contains.
        advice: End of the message: what to do.
        ignored: As in `differences`.

    Raises:
        UserError: A setting differs; names each one with both values.
    """
    different = differences(recorded, requested, ignored)
    if different:
        pairs = (f"{key} ({_short(a)}, now {_short(b)})" for key, (a, b) in different.items())
        raise UserError(f"{subject} with a different {', '.join(pairs)}. {advice}")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 1]}…"

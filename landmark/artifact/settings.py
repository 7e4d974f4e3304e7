"""What an artifact was made with, held against what is asked for now."""

import json
from collections.abc import Mapping
from typing import Any

from landmark.mistake import UserMistake


def as_recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they return from JSON: tuples are lists, keys are text.

    Raises:
        TypeError: JSON cannot hold a value.
    """
    return json.loads(json.dumps(dict(settings)))


def differences(
    recorded: Mapping[str, Any], asked: Mapping[str, Any]
) -> dict[str, tuple[object, object]]:
    """Key → (recorded, asked) of each asked setting that was recorded otherwise.

    Keys of nested mappings are joined by dots. What was recorded and is not asked for is passed
    over: counts, versions, dates.

    Example:
        >>> differences({"scales": [1.0], "image": {"fit": "crop"}, "n": 3},
        ...             {"scales": [1.0], "image": {"fit": "squash"}})
        {'image.fit': ('crop', 'squash')}
    """
    found: dict[str, tuple[object, object]] = {}
    for key, value in as_recorded(asked).items():
        old = recorded.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            both = dict.fromkeys(old) | dict(value)
            found |= {f"{key}.{name}": pair for name, pair in differences(old, both).items()}
        elif old != value:
            found[key] = (old, value)
    return found


def refuse_differences(
    recorded: Mapping[str, Any], asked: Mapping[str, Any], what: str, advice: str
) -> None:
    """Stops where a setting differs.

    Args:
        recorded: what the artifact says of itself.
        asked: what it must agree with.
        what: begins the line: the place and what lies there.
        advice: ends the line: what to do.

    Raises:
        UserMistake: names each key that differs, with both values.
    """
    found = differences(recorded, asked)
    if found:
        pairs = (f"{key} ({_short(old)}, here {_short(new)})" for key, (old, new) in found.items())
        raise UserMistake(f"{what} with another {', '.join(pairs)}; {advice}")


def _short(value: object, most: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 1]}…"

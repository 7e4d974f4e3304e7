"""What the folders of all artifacts share: required files, JSON, a schema version, damage."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from landmark.error import UserError


def check_files(path: Path, names: Iterable[str], kind: str, writer: str) -> None:
    """Refuse a folder that lacks a file.

    Raises:
        UserError: Names the first missing one, and the command that writes such folders.
    """
    for name in names:
        if not (path / name).is_file():
            raise UserError(
                f"{path} is not {kind}: {name} is missing. Pass a folder that {writer} wrote."
            )


@contextmanager
def damage(subject: str | Path, advice: str = "Write it again.") -> Iterator[None]:
    """Turn what reading a damaged file raises into one line.

    Raises:
        UserError: "<subject> is damaged (<reason>). <advice>"
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, OSError, EOFError) as error:
        raise UserError(f"{subject} is damaged ({error}). {advice}") from error


def read_json(file: Path) -> dict[str, Any]:
    """Read a mapping.

    Raises:
        ValueError: It is none, or not JSON.
        OSError: It cannot be read.
    """
    value = json.loads(file.read_text())
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} is not a mapping")  # noqa: TRY004 - as for JSON that is broken
    return value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as the metadata of all artifacts is written."""
    file.write_text(json.dumps(value, indent=1) + "\n")


def check_schema(subject: str | Path, meta: Mapping[str, Any], newest: int) -> None:
    """Refuse what a later version wrote.

    Raises:
        UserError: Its `schema` is above the newest that this version knows.
    """
    if meta.get("schema", 0) > newest:
        raise UserError(
            f"{subject} was written by a later version ({meta.get('version')}). Update landmark."
        )

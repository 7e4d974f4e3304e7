"""Checks of every artifact folder: required files, JSON, schema version, damage."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from landmark.error import UserError


def check_files(path: Path, names: Iterable[str], kind: str, writer: str) -> None:
    """Check that a folder contains the files of an artifact.

    Raises:
        UserError: A file is missing; names the first, and the command that writes such folders.
    """
    for name in names:
        if not (path / name).is_file():
            raise UserError(
                f"{path} is not {kind}: {name} is missing. Pass a folder that {writer} wrote."
            )


@contextmanager
def damage(subject: str | Path, advice: str = "Write it again.") -> Iterator[None]:
    """Convert the errors of reading a damaged file to one line.

    Raises:
        UserError: "<subject> is damaged (<reason>). <advice>"
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, OSError, EOFError) as error:
        raise UserError(f"{subject} is damaged ({error}). {advice}") from error


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON mapping.

    Raises:
        ValueError: The file is not JSON, or not a mapping.
        OSError: The file cannot be read.
    """
    value = json.loads(file.read_text())
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} is not a mapping")  # noqa: TRY004 - as json raises
    return value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write the metadata of an artifact as JSON."""
    file.write_text(json.dumps(value, indent=1) + "\n")


def check_schema(subject: str | Path, meta: Mapping[str, Any], newest: int) -> None:
    """Check that this version can read the artifact.

    Raises:
        UserError: Its `schema` is above `newest`.
    """
    if meta.get("schema", 0) > newest:
        raise UserError(
            f"{subject} was written by a later version ({meta.get('version')}). Update landmark."
        )

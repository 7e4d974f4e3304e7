"""The jobs of a sweep, as their folders tell."""

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from landmark.error import UserError

_OVERRIDES = Path(".hydra") / "overrides.yaml"
_VALIDATION = "val/"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        name: its folder below the sweep's.
        overrides: what its command line sets: key → value as written.
        metrics: of the validation whose weights it kept, as `map_at_100`; empty while unfinished.
        seconds: it took, since it was last begun; None where unknown.
        resumed: whether it went on from a checkpoint, so that `seconds` are of a part of it.
        done: whether it is finished.
    """

    name: str
    overrides: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    resumed: bool = False
    done: bool = False


def read_jobs(folder: Path) -> list[Job]:
    """The jobs whose folders lie below `folder`, in the order of their numbers.

    Raises:
        UserError: there are none, or a file of theirs is damaged.
    """
    files = [file for file in folder.rglob(str(_OVERRIDES)) if file.parents[1] != folder]
    if not files:
        raise UserError(f"{folder}: holds no job of a sweep (no folder with {_OVERRIDES})")
    return sorted((_read(file, folder) for file in files), key=_order)


def _order(job: Job) -> list[tuple[int, str]]:
    """Numbers within names in the order of numbers."""
    pieces = re.split(r"(\d+)", job.name)
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]


def _read(file: Path, folder: Path) -> Job:
    run = file.parents[1]
    try:
        written = yaml.safe_load(file.read_text()) or []
    except yaml.YAMLError as error:
        raise UserError(f"{file}: is damaged ({' '.join(str(error).split())})") from error
    pairs = (str(override).partition("=") for override in written)
    overrides = {key.lstrip("+~"): value for key, _, value in pairs}
    name = str(run.relative_to(folder))
    result_file = run / "result.json"
    if not result_file.is_file():
        return Job(name, overrides)
    try:
        result = json.loads(result_file.read_text())
        metrics = _metrics(run / "metrics.csv", result["settings"])
    except (ValueError, KeyError) as error:
        raise UserError(f"{result_file}: is damaged ({error})") from error
    return Job(
        name,
        overrides,
        metrics,
        result.get("seconds"),
        resumed=bool(result.get("resumed")),
        done=True,
    )


def _metrics(file: Path, settings: dict[str, Any]) -> dict[str, float]:
    """The validation of the weights that were kept: the best by mAP, or the last."""
    if not file.is_file():
        return {}
    with file.open(newline="") as stream:
        rows = [
            {
                name.removeprefix(_VALIDATION): float(value)
                for name, value in row.items()
                if name.startswith(_VALIDATION) and value
            }
            for row in csv.DictReader(stream)
        ]
    rows = [row for row in rows if row]
    if not rows:
        return {}
    if settings["keep"] == "last":
        return rows[-1]
    # Of equal ones the first was kept.
    return max(rows, key=lambda row: row.get(f"map_at_{settings['task']['k']}", float("-inf")))

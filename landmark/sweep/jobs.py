"""Read the jobs of a sweep from their run folders."""

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from landmark.error import UserError

_OVERRIDES = Path(".hydra") / "overrides.yaml"


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        name: Folder of the job, relative to the folder of the sweep.
        overrides: Overrides on its command line, key → value as written.
        metrics: Validation metrics of the saved weights, such as `map_at_100`; empty while
            unfinished.
        seconds: Run time since the last start. None if unknown.
        resumed: Whether the job was resumed from a checkpoint, so that `seconds` covers only a part
            of it.
        done: Whether the job has finished.
    """

    name: str
    overrides: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    resumed: bool = False
    done: bool = False

    @property
    def state(self) -> str:
        """`unfinished`, `done`, or `done, resumed`."""
        if not self.done:
            return "unfinished"
        return "done, resumed" if self.resumed else "done"


def read_jobs(folder: Path) -> list[Job]:
    """Read the jobs below `folder`, in the order of their numbers.

    Raises:
        UserError: There are no jobs, or a file of a job is damaged.
    """
    files = [file for file in folder.rglob(str(_OVERRIDES)) if file.parents[1] != folder]
    if not files:
        raise UserError(
            f"{folder} contains no job of a sweep (no folder with {_OVERRIDES}). Pass the folder "
            "of a sweep."
        )
    return sorted((_read_job(file, folder) for file in files), key=_natural_order)


def _natural_order(job: Job) -> list[tuple[int, str]]:
    """Return a sort key that compares numbers within names as numbers."""
    pieces = re.split(r"(\d+)", job.name)
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]


def _read_job(file: Path, folder: Path) -> Job:
    run = file.parents[1]
    try:
        lines = yaml.safe_load(file.read_text()) or []
    except yaml.YAMLError as error:
        raise UserError(f"{file} is damaged ({' '.join(str(error).split())}).") from error
    pairs = (str(line).partition("=") for line in lines)
    overrides = {key.lstrip("+~"): value for key, _, value in pairs}
    name = str(run.relative_to(folder))
    result_file = run / "result.json"
    if not result_file.is_file():
        return Job(name, overrides)
    try:
        result = json.loads(result_file.read_text())
        metrics = _saved_metrics(run / "metrics.csv", result["settings"])
    except (ValueError, KeyError) as error:
        raise UserError(f"{result_file} is damaged ({error}).") from error
    resumed = bool(result.get("resumed"))
    return Job(name, overrides, metrics, result.get("seconds"), resumed, done=True)


def _saved_metrics(file: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Return the validation metrics of the saved weights: the best by mAP, or the last."""
    if not file.is_file():
        return {}
    rows = []
    with file.open(newline="") as stream:
        for line in csv.DictReader(stream):
            values = {name: value for name, value in line.items() if name.startswith("val/")}
            row = {name[4:]: float(value) for name, value in values.items() if value}
            if row:
                rows.append(row)
    if not rows:
        return {}
    if settings["keep"] == "last":
        return rows[-1]
    # max returns the first of equal rows, and the first was saved.
    return max(rows, key=lambda row: row.get(f"map_at_{settings['task']['k']}", float("-inf")))

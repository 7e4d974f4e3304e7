"""What a resumed run has already logged."""

import csv
from pathlib import Path
from typing import Protocol

from landmark.disk.atomic import atomic_file


class _MetricsLogger(Protocol):
    def log_metrics(self, metrics: dict, step: int | None = None) -> None: ...
    def save(self) -> None: ...


def carry_on_metrics(logger: _MetricsLogger, file: Path, step: int) -> None:
    """Gives a logger that begins its CSV anew the rows from before a checkpoint.

    Rows of later steps, which the resumed run will log again, are left out. Until the logger has
    written the rows they lie in a hidden sibling of `file`, so that a kill loses none.

    Args:
        logger: writes `file`, and removes an earlier one when it begins.
        file: metrics.csv.
        step: optimizer steps that the checkpoint has done.
    """
    kept = file.with_name(f".{file.name}.before")
    if not kept.is_file():
        if not file.is_file():
            return
        rows = [row for row in _rows(file) if int(row["step"]) < step]
        with atomic_file(kept) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["step"])
            writer.writeheader()
            writer.writerows(rows)
    for row in _rows(kept):
        logged = {name: value for name, value in row.items() if value and name != "step"}
        logger.log_metrics(logged, int(row["step"]))
    logger.save()
    kept.unlink()


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))

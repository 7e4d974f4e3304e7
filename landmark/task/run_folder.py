"""A run folder: settings, the checkpoint to resume from, metrics and the result."""

import csv
import json
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from landmark.data.run_splits import SPLIT_TABLE
from landmark.disk.atomic import atomic_file
from landmark.disk.differences import check_same_settings
from landmark.error import UserError
from landmark.model.weights_file import read_checkpoint

RESULT = "result.json"
_RUN_NAME = "run_name.txt"
# Settings that change weights and metrics by rounding at most: a resumed run may change them.
_IRRELEVANT = {"overwrite", "workers", "logger", "save_every_steps", "device"}
_IRRELEVANT |= {"head.block", "head.precision"}
_IRRELEVANT |= {
    f"trainer.{name}" for name in ("enable_progress_bar", "log_every_n_steps", "profiler")
}


def write_result(
    folder: Path,
    best: float | None,
    settings: dict[str, Any],
    seconds: float | None = None,
    resumed: bool = False,
    kept: str | None = None,
) -> None:
    """Mark a run as finished: write its `result.json`.

    Args:
        folder: Run folder.
        best: Best validation metric.
        settings: Settings of the run.
        seconds: Wall time since the run was last started or resumed.
        resumed: Whether it was then resumed from a checkpoint.
        kept: Checkpoint of RUN/embedder. Defaults to the setting keep.
    """
    result = {"best": best, "kept": kept or settings.get("keep"), "seconds": seconds}
    result |= {"resumed": resumed, "settings": settings}
    with atomic_file(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def read_result(folder: Path) -> dict[str, Any]:
    """Return the arguments of `write_result` of a finished run."""
    return json.loads((folder / RESULT).read_text())


def is_finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether `folder` contains a finished run with these settings.

    Raises:
        UserError: The finished run has other settings; names them.
    """
    if not (folder / RESULT).is_file():
        return False
    _check_same_run(folder, read_result(folder)["settings"], settings)
    return True


def run_name(folder: Path) -> str:
    """Return a random name that a run keeps when it is resumed."""
    file = folder / _RUN_NAME
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text()


def clear(folder: Path) -> None:
    """Remove the files of an earlier run from its folder."""
    for name in ("checkpoints", "embedder"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (RESULT, _RUN_NAME, SPLIT_TABLE, "metrics.csv", ".metrics.csv.before"):
        (folder / name).unlink(missing_ok=True)


def checkpoint_to_resume(folder: Path, settings: dict[str, Any]) -> tuple[Path | None, int]:
    """Return the last checkpoint of `folder` and its optimizer steps; (None, 0) without one.

    Args:
        folder: Run folder.
        settings: Settings of this run.

    Raises:
        UserError: The checkpoint is damaged, was not written by train, or a setting differs.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        return None, 0
    try:
        checkpoint = read_checkpoint(last, mmap=True)
    except UserError as error:
        raise damaged_checkpoint(last) from error
    if "settings" not in checkpoint or "global_step" not in checkpoint:
        raise UserError(f"{last} is not a checkpoint of train. Pass overwrite=true to start over.")
    _check_same_run(folder, json.loads(checkpoint["settings"]), settings)
    return last, int(checkpoint["global_step"])


def damaged_checkpoint(last: Path) -> UserError:
    """Return the error of a checkpoint that cannot be resumed from, with what to do instead."""
    best, advice = last.with_name("best.ckpt"), "Pass overwrite=true to start over"
    try:
        step = read_checkpoint(best, mmap=True)["global_step"]
        advice += f", or init={best} (step {step}) with another hydra.run.dir to start from it"
    except (UserError, KeyError):  # missing or damaged too
        pass
    return UserError(f"{last} is damaged or not a checkpoint. {advice}.")


def _check_same_run(folder: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    check_same_settings(
        saved,
        dict.fromkeys(saved) | current,
        f"{folder} contains a run",
        "Use the same settings to resume, another hydra.run.dir, or overwrite=true to start over.",
        ignored=_IRRELEVANT,
    )


def check_same_classes(last: Path | None, classes: Sequence[str]) -> None:
    """Check that a checkpoint to resume from was trained on the landmarks of the data.

    Args:
        last: Checkpoint to resume from. None means a new run.
        classes: Landmark ids of the data, by label.

    Raises:
        UserError: The landmarks differ; names an example.
    """
    saved = None if last is None else read_checkpoint(last, mmap=True).get("classes")
    if saved is None or saved == list(classes):
        return
    new, missing = sorted(set(classes) - set(saved)), sorted(set(saved) - set(classes))
    differences = [f"{len(new)} new, such as {new[0]}"] if new else []
    differences += [f"{len(missing)} missing, such as {missing[0]}"] if missing else []
    raise UserError(
        f"{last} was trained on {len(saved)} landmarks and the data has {len(classes)} "
        f"({'; '.join(differences) or 'in another order'}). Use the same photos to resume, another "
        "hydra.run.dir, or overwrite=true to start over."
    )


class _MetricsLogger(Protocol):
    def log_metrics(self, metrics: dict, step: int | None = None) -> None: ...
    def save(self) -> None: ...


def restore_metrics(logger: _MetricsLogger, file: Path, step: int) -> None:
    """Log the rows of metrics.csv up to a checkpoint again, since the logger starts a new file.

    Rows of later steps are dropped: the resumed run logs them again. Until the logger has written
    the rows, a hidden sibling of `file` contains them, so that a kill loses none.

    Args:
        logger: Logger that writes `file`; it deletes an existing one when it starts.
        file: Path of metrics.csv.
        step: Optimizer steps of the checkpoint.
    """
    backup = file.with_name(f".{file.name}.before")
    if not backup.is_file():
        if not file.is_file():
            return
        rows = [row for row in _rows(file) if int(row["step"]) < step]
        with atomic_file(backup) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["step"])
            writer.writeheader()
            writer.writerows(rows)
    for row in _rows(backup):
        logged = {name: value for name, value in row.items() if value and name != "step"}
        logger.log_metrics(logged, int(row["step"]))
    logger.save()
    backup.unlink()


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))

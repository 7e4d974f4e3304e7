"""Going on from a run folder's last checkpoint, with the settings that it began with."""

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

from landmark.disk.atomic import atomic_file
from landmark.disk.differences import check_same_settings
from landmark.error import UserError
from landmark.model.weights import read_checkpoint

RESULT = "result.json"
NAME = "run_name.txt"
# What changes neither the weights nor the figures: a run may go on with other ones.
_FREE = {"overwrite", "workers", "logger", "save_every_steps", "head.block"}
_FREE |= {f"trainer.{name}" for name in ("enable_progress_bar", "log_every_n_steps", "profiler")}


def write_result(
    folder: Path,
    best: float | None,
    settings: str,
    seconds: float | None = None,
    resumed: bool = False,
) -> None:
    """Marks a run as finished: writes its `result.json`.

    Args:
        folder: the run folder.
        best: its best validation figure.
        settings: its settings as JSON.
        seconds: it took, since it was last begun.
        resumed: whether it then went on from a checkpoint.
    """
    result = {"best": best, "seconds": seconds, "resumed": resumed}
    result["settings"] = json.loads(settings)
    with atomic_file(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def read_result(folder: Path) -> float | None:
    """The best validation figure of a finished run."""
    return json.loads((folder / RESULT).read_text())["best"]


def is_finished(folder: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether `folder` holds a finished run of these settings.

    Raises:
        UserError: it holds one of other settings; names them.
    """
    if overwrite or not (folder / RESULT).is_file():
        return False
    _check_same_run(folder, json.loads((folder / RESULT).read_text())["settings"], settings)
    return True


def lasting_name(folder: Path) -> str:
    """A random name that a run keeps when it goes on, written to its folder the first time."""
    file = folder / NAME
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(secrets.token_hex(4))
    return file.read_text()


def clear(folder: Path) -> None:
    """Removes what an earlier run left in its folder, so that another can begin there."""
    for name in ("checkpoints", "embedder"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (RESULT, NAME, "metrics.csv", ".metrics.csv.before", "bad_images.csv"):
        (folder / name).unlink(missing_ok=True)


def checkpoint_to_resume(folder: Path, settings: dict[str, Any]) -> tuple[Path | None, int]:
    """The last checkpoint of `folder` and its optimizer steps; None, 0: the run begins anew.

    Args:
        folder: the run folder.
        settings: the settings of this run.

    Raises:
        UserError: the checkpoint is damaged or no checkpoint of train.py, or a setting differs
            from those that it was made with.
    """
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        return None, 0
    checkpoint = read_checkpoint(last, mmap=True)
    if "settings" not in checkpoint or "global_step" not in checkpoint:
        raise UserError(f"{last} is not a checkpoint of train. Pass overwrite=true to start over.")
    _check_same_run(folder, json.loads(checkpoint["settings"]), settings)
    return last, int(checkpoint["global_step"])


def _check_same_run(folder: Path, saved: dict[str, Any], present: dict[str, Any]) -> None:
    check_same_settings(
        saved,
        dict.fromkeys(saved) | present,
        f"{folder} contains a run",
        "Use the same settings to resume, another hydra.run.dir, or overwrite=true to start over.",
        ignored=_FREE,
    )

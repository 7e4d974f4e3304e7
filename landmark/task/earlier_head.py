"""Going on with the class centres of an earlier run, of the same landmarks."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from landmark.error import UserError
from landmark.model.persist import CLASSES
from landmark.model.weights import read_checkpoint
from landmark.task.resume import RESULT

_PREFIX = "loss."


def take_over_head(loss: nn.Module, source: str | Path, classes: Sequence[str]) -> None:
    """Copies what the head of an earlier run learnt into `loss`.

    Args:
        loss: holds the class centres.
        source: the earlier run's `RUN/embedder`, whose head lies in the checkpoint that it was
            made of, or one of its checkpoints.
        classes: landmark_id of each label of this run.

    Raises:
        UserError: no checkpoint, one of another loss, or one of other landmarks.
    """
    source = Path(source)
    run = source.parent if source.is_dir() else source.parent.parent
    checkpoint = source if source.is_file() else run / "checkpoints" / f"{_kept(run)}.ckpt"
    if not checkpoint.is_file():
        raise UserError(
            f"init={source}: keep_head=true needs {checkpoint}, which is not there; "
            "use keep_head=false to begin with a new head"
        )
    if list(classes) != _classes(run, source):
        raise UserError(
            f"init={source}: was trained on other landmarks; the head can be kept with the same "
            "data alone, use keep_head=false"
        )
    state = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in read_checkpoint(checkpoint)["state_dict"].items()
        if name.startswith(_PREFIX)
    }
    try:
        loss.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"init={source}: its head is not of this loss ({' '.join(str(error).split())}); "
            "choose the same loss, or keep_head=false"
        ) from error


def _kept(run: Path) -> str:
    """Which checkpoint the run's embedder was made of: best or last."""
    result = run / RESULT
    if not result.is_file():
        raise UserError(f"{run}: keep_head=true goes on from a finished run, this is none")
    return str(json.loads(result.read_text())["settings"]["keep"])


def _classes(run: Path, source: Path) -> list[str]:
    folder = source if source.is_dir() else run / "embedder"
    if not (folder / CLASSES).is_file():
        raise UserError(f"{folder}: has no {CLASSES}; use keep_head=false")
    with (folder / CLASSES).open(newline="") as file:
        return [row["landmark_id"] for row in csv.DictReader(file)]

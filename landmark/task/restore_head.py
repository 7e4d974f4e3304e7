"""Restore the class centres of an earlier run on the same landmarks."""

import csv
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from landmark.error import UserError
from landmark.model.persist import CLASSES
from landmark.model.weights_file import part_of_checkpoint, read_checkpoint
from landmark.task.run_folder import RESULT, read_result


def restore_head(loss: nn.Module, init: str | Path, classes: Sequence[str]) -> None:
    """Load the head of an earlier run into `loss`.

    Args:
        loss: Loss with the class centres.
        init: `RUN/embedder` of the earlier run, whose head is in the checkpoint that it was written
            from, or one of its checkpoints.
        classes: landmark_id of each label of this run.

    Raises:
        UserError: The checkpoint is missing, or has another loss or other landmarks.
    """
    init = Path(init)
    checkpoint = find_checkpoint(init)
    if list(classes) != read_classes(init):
        raise UserError(
            f"init={init} was trained on other landmarks. keep_head=true needs the same data; pass "
            "keep_head=false."
        )
    try:
        loss.load_state_dict(part_of_checkpoint(read_checkpoint(checkpoint), "loss"))
    except RuntimeError as error:
        raise UserError(
            f"init={init} has the head of another loss ({' '.join(str(error).split())}). Choose "
            "the same loss, or pass keep_head=false."
        ) from error


def find_checkpoint(init: Path) -> Path:
    """Return the checkpoint with the head of `init`, an embedder folder or a checkpoint.

    Raises:
        UserError: It is missing.
    """
    checkpoint = init
    if not init.is_file():
        run = init.parent
        if not (run / RESULT).is_file():
            raise UserError(f"keep_head=true needs a finished run, and {run} has not finished.")
        result = read_result(run)
        kept = result.get("kept") or result["settings"]["keep"]
        checkpoint = run / "checkpoints" / f"{kept}.ckpt"
    if not checkpoint.is_file():
        raise UserError(
            f"init={init}: {checkpoint} is missing. Pass keep_head=false to start with a new head."
        )
    return checkpoint


def read_classes(init: Path) -> list[str]:
    """Return the landmark_id of each label of the run of `init`.

    Raises:
        UserError: The run does not list them.
    """
    folder = init.parent.parent / "embedder" if init.is_file() else init
    if not (folder / CLASSES).is_file():
        raise UserError(f"{folder}: {CLASSES} is missing. Pass keep_head=false.")
    with (folder / CLASSES).open(newline="") as file:
        return [row["landmark_id"] for row in csv.DictReader(file)]

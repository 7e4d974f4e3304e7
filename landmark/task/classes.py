"""The landmarks that a run is trained on, which a resumed run must have as well."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from landmark.error import UserError
from landmark.model.weights import read_checkpoint


class KeepClasses(pl.Callback):
    """Writes the landmark ids, place = label, into each checkpoint.

    Args:
        classes: the landmark ids.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = list(classes)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the classes."""
        del trainer, pl_module
        checkpoint["classes"] = self._classes


def refuse_other_classes(last: Path | None, classes: Sequence[str]) -> None:
    """Refuses to go on from a checkpoint that was trained on other landmarks.

    Args:
        last: the checkpoint; None: the run begins anew.
        classes: landmark ids of the photos that are there now, place = label.

    Raises:
        UserError: they differ; says how.
    """
    saved = None if last is None else read_checkpoint(last, mmap=True).get("classes")
    if saved is None or saved == list(classes):
        return
    new, gone = sorted(set(classes) - set(saved)), sorted(set(saved) - set(classes))
    differences = [f"{len(new)} new, such as {new[0]}"] if new else []
    differences += [f"{len(gone)} gone, such as {gone[0]}"] if gone else []
    raise UserError(
        f"{last}: was trained on {len(saved)} landmarks, and the photos have {len(classes)} now "
        f"({'; '.join(differences) or 'in another order'}); give it the same photos to go on, "
        f"another hydra.run.dir, or overwrite=true to begin anew"
    )

"""Checkpoints on disk: there whole or not at all, and last.ckpt as often as is asked for."""

import io
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from landmark.disk.atomic import atomic_file
from landmark.error import UserError


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it: a kill leaves the earlier one whole.

    Nothing is copied in memory on the way, as Lightning's own writer would: class centres of
    200,000 landmarks and their momentum are over a gigabyte.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401, ARG002
    ) -> None:
        """Writes `checkpoint` to `path`.

        Raises:
            UserError: the disk is full or the folder cannot be written.
        """
        path = Path(path)
        refusals: list[OSError] = []
        try:
            # A fixed name: of the writers that were killed one copy is left at most.
            with (
                atomic_file(path, path.with_name(f".{path.name}.part")) as temporary,
                temporary.open("wb", buffering=0) as file,
            ):
                torch.save(checkpoint, _Watched(file, refusals))  # type: ignore[arg-type]
                os.fsync(file.fileno())
        except (UserError, OSError, RuntimeError) as error:
            if not refusals and not isinstance(error, UserError):
                raise
            reason = refusals[0].strerror if refusals else str(error)
            raise UserError(
                f"{path}: the checkpoint cannot be written ({reason}). The previous one is intact: "
                "free some space and run the same command again."
            ) from error


class _Watched:
    """A file that notes what the disk refused: PyTorch raises an error of its own after it."""

    def __init__(self, file: io.RawIOBase, refusals: list[OSError]) -> None:
        self._file = file
        self._refusals = refusals

    def write(self, data: bytes) -> int:
        try:
            rest = memoryview(data).cast("B")
            while len(rest):  # an unbuffered write may take less than it is given
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._refusals.append(error)
            raise
        return len(data)

    def flush(self) -> None:
        self._file.flush()


class KeepLast(Checkpoint):
    """Writes `last.ckpt` in the middle of epochs, and when the process is asked to end.

    The end of each epoch has a checkpoint of its own, after validation.

    Args:
        file: the checkpoint.
        every_steps: optimizer steps between two checkpoints; None: only when asked to end.

    Raises:
        UserError: `every_steps` is below 1.
    """

    def __init__(self, file: Path, every_steps: int | None) -> None:
        if every_steps is not None and every_steps < 1:
            raise UserError(f"save_every_steps={every_steps}: give 1 or more, or null")
        self._file = file
        self._every_steps = every_steps
        self._saved_at = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        """Saves where the number of steps is reached, but for the last batch of an epoch."""
        del pl_module
        step = trainer.global_step
        if self._every_steps is None or step % self._every_steps or step == self._saved_at:
            return
        if not trainer.is_last_batch:
            self._saved_at = step
            trainer.save_checkpoint(self._file)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Saves between two batches when SIGTERM came; several processes have no such moment."""
        del pl_module
        if isinstance(exception, SIGTERMException) and trainer.world_size == 1:
            trainer.save_checkpoint(self._file)

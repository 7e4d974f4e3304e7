"""Checkpoints: when they are written, what they contain, and atomic writes."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from landmark.disk.atomic import atomic_file
from landmark.error import UserError
from landmark.task.run_folder import damaged_checkpoint

_DAMAGE = (pickle.UnpicklingError, zipfile.BadZipFile)


def checkpoint_callbacks(folder: Path, k: int, every_steps: int | None) -> list[Checkpoint]:
    """Return callbacks that keep `checkpoints/last.ckpt` and, by validation mAP@k, `best.ckpt`.

    Args:
        folder: Run folder.
        k: Results per query in the validation's mAP.
        every_steps: Optimizer steps between two last.ckpt within an epoch. None means only at its
            end.
    """
    callback = partial(
        ModelCheckpoint,
        dirpath=folder / "checkpoints",
        save_top_k=1,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    return [
        callback(filename="best", monitor=f"val/map_at_{k}", mode="max"),
        callback(filename="last", monitor=None, save_on_train_epoch_end=True),
        SaveWithinEpoch(folder / "checkpoints" / "last.ckpt", every_steps),
    ]


class SaveWithinEpoch(Checkpoint):
    """Write `last.ckpt` within epochs.

    `ModelCheckpoint` writes it at the end of each epoch, after validation.

    Args:
        file: Path of the checkpoint.
        every_steps: Optimizer steps between two checkpoints. None means never.
    """

    def __init__(self, file: Path, every_steps: int | None) -> None:
        self._file = file
        self._every_steps = every_steps
        self._saved_at = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object
    ) -> None:
        """Save every `every_steps` steps, except after the last batch of an epoch."""
        del pl_module
        step = trainer.global_step
        if self._every_steps is None or step % self._every_steps or step == self._saved_at:
            return
        if not trainer.is_last_batch:
            self._saved_at = step
            trainer.save_checkpoint(self._file)


class RecordRun(pl.Callback):
    """Record in each checkpoint what extraction, resuming and `keep_head` need.

    Args:
        settings: The run's settings, which a resumed run must share.
        embedder_yaml: Text of embedder.yaml, so that extraction can use a checkpoint.
        classes: Landmark ids by label.
        precision: Precision of the trainer, which trainer.precision=auto has chosen.
    """

    def __init__(
        self, settings: dict[str, Any], embedder_yaml: str, classes: Sequence[str], precision: str
    ) -> None:
        self._record = {
            "settings": json.dumps(settings),
            "embedder_yaml": embedder_yaml,
            "classes": list(classes),
            "precision": precision,
        }

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the record, and flush the loggers: a resumed run neither repeats nor misses a row."""
        del pl_module
        for logger in trainer.loggers:
            logger.save()
        checkpoint.update(self._record)


class BeforeFirstCheckpoint(pl.Callback):
    """Call a function on rank 0 before the first checkpoint: a failed start leaves no files.

    Args:
        write: The function.
    """

    def __init__(self, write: Callable[[], None]) -> None:
        self._write: Callable[[], None] | None = write

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Call the function, once."""
        del pl_module, checkpoint
        if self._write is not None and trainer.is_global_zero:
            self._write()
        self._write = None


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint to a temporary sibling and rename it: a kill leaves the previous one.

    Lightning's own writer serialises in memory first; class centres of 200,000 landmarks and their
    momentum are over a gigabyte. This one streams to disk.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401, ARG002
    ) -> None:
        """Write `checkpoint` to `path`.

        Raises:
            UserError: The disk is full or the folder cannot be written.
        """
        path = Path(path)
        disk_failures: list[OSError] = []
        try:
            # A fixed name, so that killed writers leave at most one copy.
            with (
                atomic_file(path, path.with_name(f".{path.name}.part")) as temporary,
                temporary.open("wb", buffering=0) as file,
            ):
                torch.save(checkpoint, _RecordingFile(file, disk_failures))  # type: ignore[arg-type]
                os.fsync(file.fileno())
        except (UserError, OSError, RuntimeError) as error:
            if not disk_failures and not isinstance(error, UserError):
                raise
            reason = disk_failures[0].strerror if disk_failures else str(error)
            raise UserError(
                f"{path}: cannot write the checkpoint ({reason}). The previous one is intact; free "
                "some space and run the same command again."
            ) from error

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        """Read a checkpoint to resume from.

        Raises:
            UserError: A tensor is damaged.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # PyTorch does not compare the checksums of tensors
            if damaged is None:
                return super().load_checkpoint(path, *arguments, **options)
        except (RuntimeError, EOFError, ValueError, *_DAMAGE) as error:
            raise damaged_checkpoint(Path(path)) from error
        raise damaged_checkpoint(Path(path))


class _RecordingFile:
    """A file that records disk errors: PyTorch raises a different error in their place."""

    def __init__(self, file: io.RawIOBase, failures: list[OSError]) -> None:
        self._file = file
        self._failures = failures

    def write(self, data: bytes) -> int:
        try:
            rest = memoryview(data).cast("B")
            while len(rest):  # an unbuffered write may be partial
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._failures.append(error)
            raise
        return len(data)

    def flush(self) -> None:
        self._file.flush()

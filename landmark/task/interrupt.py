"""Ctrl-C and SIGTERM in training: save a checkpoint of the last finished step, then stop."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.utilities.exceptions import SIGTERMException

# Launchers forward a Ctrl-C that has reached the process already.
_SAME_SIGNAL_SECONDS = 1.0
_STANDARD_ERROR = 2
_NOTICE = b"\nStopping after this step. Press Ctrl-C again to stop without a checkpoint.\n"
_VALIDATION_PROGRESS = "epoch_loop.val_loop.batch_progress"


class StopOnInterrupt(pl.Callback):
    """Stop on SIGINT after the current step, or in a single process after a validation batch.

    SIGTERM, which Lightning handles, is saved too. Before the first step, and at a second SIGINT,
    KeyboardInterrupt is raised immediately, which leaves the previous checkpoint. Several processes
    finish a validation first, since only a training step is at the same place on all of them.
    Rank 0 decides; the others ignore the signal.

    Args:
        last: Path of last.ckpt.

    Attributes:
        happened: Whether an interrupt has stopped the training.
        requested: Whether an interrupt has been requested.
    """

    def __init__(self, last: Path) -> None:
        self.happened = False
        self._last = last
        self._requested_at: float | None = None
        self._has_begun = False
        self._is_stopping = False
        self._is_saved = False
        self._stops_validation = False
        self._steps_before = 0

    @property
    def requested(self) -> bool:  # noqa: D102 - an attribute of the class
        return self._requested_at is not None

    @contextmanager
    def handling(self, trainer: pl.Trainer) -> Iterator[None]:
        """Handle SIGINT for the block, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handler = self._handle if trainer.is_global_zero else signal.SIG_IGN
        before = signal.signal(signal.SIGINT, handler)
        # The ranks that Lightning starts inherit the blocked signal; `setup` unblocks this process.
        if trainer.world_size > 1:
            _block_interrupts(True)
        try:
            yield
        finally:
            self._is_stopping = True
            if trainer.is_global_zero:
                _block_interrupts(False)
            signal.signal(signal.SIGINT, before)

    def _handle(self, *_: object) -> None:
        if self._is_stopping:
            return
        now = time.monotonic()
        if not self._has_begun:
            self._is_stopping = True
            raise KeyboardInterrupt
        if self._requested_at is None:
            self._requested_at = now
            os.write(_STANDARD_ERROR, _NOTICE)  # print is not reentrant
        elif now - self._requested_at > _SAME_SIGNAL_SECONDS:
            self._is_stopping = True
            raise KeyboardInterrupt

    def setup(self, trainer: pl.Trainer, *_: object, **__: object) -> None:
        """Accept interrupts on rank 0, once the other ranks run."""
        if trainer.is_global_zero:
            _block_interrupts(False)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        """Defer interrupts from now on."""
        self._has_begun = True
        self._steps_before = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Stop after an optimizer step, but not the last of an epoch: validation follows."""
        if trainer.global_step > self._steps_before and not trainer.is_last_batch:
            self._stop_if_requested(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: object, **__: object) -> None:
        """Stop after this batch, in a single process."""
        if trainer.world_size == 1:
            self._stop_if_requested(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: object) -> None:
        """Stop: the end of the last epoch has saved a checkpoint."""
        self._stop_if_requested(trainer)
        if self._is_stopping:
            self._is_saved = True
            raise SIGTERMException

    def _stop_if_requested(self, trainer: pl.Trainer) -> None:
        """Let Lightning stop at the end of the batch, once its metrics are logged."""
        requested = self.requested
        if trainer.world_size > 1:
            flag = torch.tensor(int(requested), device=trainer.strategy.root_device)
            requested = bool(trainer.strategy.reduce(flag, reduce_op="max"))
        if requested:
            self._is_stopping = True
            trainer._signal_connector.received_sigterm = True

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save when Lightning stops at the end of a batch, for a signal or an interrupt.

        SIGTERM is saved in a single process only: several receive it at different steps. The other
        ranks are ended before Lightning finds one dead and kills this process.
        """
        if isinstance(exception, KeyboardInterrupt):
            self.happened = True
            processes = getattr(trainer.strategy.launcher, "procs", [])
            for process in processes:
                process.kill()
            processes.clear()
        elif isinstance(exception, SIGTERMException):
            self.happened = self._is_stopping
            if (self._is_stopping or trainer.world_size == 1) and not self._is_saved:
                self._stops_validation = trainer.validating
                if self._stops_validation:
                    _restore_trained_weights(trainer, pl_module)
                trainer.save_checkpoint(self._last)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Where a validation is stopped, save the state at its start: it has no result yet."""
        del trainer, pl_module
        if self._stops_validation:
            progress = checkpoint["loops"]["fit_loop"][_VALIDATION_PROGRESS]
            for counts in (progress["total"], progress["current"]):
                counts.update(ready=0, started=0, processed=0, completed=0)
            # Lightning resumes a validation in whose first batch it stopped.
            progress["total"].update(ready=1, started=1)
            progress["is_last_batch"] = False


def _restore_trained_weights(trainer: pl.Trainer, task: pl.LightningModule) -> None:
    """Undo the exchange of the weights by their average, which lasts for a validation."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            callback.on_validation_epoch_end(trainer, task)


def _block_interrupts(block: bool) -> None:
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        how = signal.SIG_BLOCK if block else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, {signal.SIGINT})

"""Stops a training whose loss or weights are no finite numbers, with the last checkpoint whole."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from landmark.error import UserError
from landmark.model.weights import read_checkpoint

_NEVER = torch.iinfo(torch.int64).max


class StopAtNonFinite(pl.Callback):
    """Ends training at a loss that is NaN or infinite, and lets no such checkpoint be written.

    The first step with such a loss is noted on the device. It is read every `every_steps` steps,
    by all processes together, and before each checkpoint; a single process on a CPU, which has
    nothing to wait for, reads it every step. A checkpoint whose weights are not finite, which one
    step of infinite gradients makes of a finite loss, is not written either.

    Args:
        last: the checkpoint that the message names.
        every_steps: steps between two readings.
    """

    def __init__(self, last: Path, every_steps: int = 50) -> None:
        self._last = last
        self._every_steps = every_steps
        self._first: Tensor | None = None
        self._batches = 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        *_: object,
    ) -> None:
        """Notes whether this step's loss is finite."""
        del pl_module
        loss = outputs["loss"].detach()
        if self._first is None:
            self._first = torch.full((), _NEVER, dtype=torch.int64, device=loss.device)
        here = torch.where(torch.isfinite(loss), _NEVER, trainer.global_step)
        self._first = torch.minimum(self._first, here)
        self._batches += 1
        if self._reads_each_step(trainer, loss) or self._batches % self._every_steps == 0:
            self._check_loss(trainer)

    @staticmethod
    def _reads_each_step(trainer: pl.Trainer, loss: Tensor) -> bool:
        return trainer.world_size == 1 and loss.device.type == "cpu"

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses to write what is not finite over the last good checkpoint."""
        del checkpoint
        self._check_loss(trainer)
        values = [v for v in pl_module.state_dict().values() if isinstance(v, Tensor)]
        whole = [torch.isfinite(value).all() for value in values if value.is_floating_point()]
        finite = torch.stack([flag.to(pl_module.device) for flag in whole]).all().to(torch.int64)
        if not int(_least(trainer, finite)):
            self._stop(trainer, f"step {trainer.global_step}: weights are NaN or infinite after it")

    def _check_loss(self, trainer: pl.Trainer) -> None:
        if self._first is None:
            return
        if (step := int(_least(trainer, self._first))) != _NEVER:
            self._stop(trainer, f"step {step}: the loss is NaN or infinite")

    def _stop(self, trainer: pl.Trainer, what: str) -> None:
        if not trainer.is_global_zero:
            raise SystemExit(2)  # all processes stop here, and one says why
        if not self._last.is_file():
            raise UserError(
                f"{what}, and no checkpoint was written before; lower optimizer.lr or raise "
                "schedule.warmup"
            )
        step = read_checkpoint(self._last, mmap=True).get("global_step")
        raise UserError(
            f"{what}; the last good checkpoint is {self._last} (step {step}): begin another run "
            f"from it with init={self._last} and a lower optimizer.lr"
        )


def _least(trainer: pl.Trainer, value: Tensor) -> Tensor:
    """The least that a process has: all stop at the same moment, or none."""
    if trainer.world_size == 1:
        return value
    return trainer.strategy.reduce(value.clone(), reduce_op="min")

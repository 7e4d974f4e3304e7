"""Stop a training whose loss or weights become NaN or infinite; keep the last good checkpoint."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from landmark.error import UserError
from landmark.model.weights_file import read_checkpoint

_NEVER = torch.iinfo(torch.int64).max


class NanGuard(pl.Callback):
    """Stop training when the loss becomes NaN or infinite, before another checkpoint is saved.

    The first such step is recorded on the device. All ranks read it together, every `every_steps`
    steps and before each checkpoint; a single process on a CPU, where reading is free, reads it
    every step. A checkpoint whose weights are not finite is not saved either: infinite gradients
    produce such weights from a finite loss.

    Args:
        last: Checkpoint that the message names.
        every_steps: Steps between two readings.
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
        """Record whether this step's loss is finite."""
        del pl_module
        loss = outputs["loss"].detach()
        if self._first is None:
            self._first = torch.full((), _NEVER, dtype=torch.int64, device=loss.device)
        step = torch.where(torch.isfinite(loss), _NEVER, trainer.global_step)
        self._first = torch.minimum(self._first, step)
        self._batches += 1
        if self._reads_each_step(trainer, loss) or self._batches % self._every_steps == 0:
            self._check_loss(trainer)

    @staticmethod
    def _reads_each_step(trainer: pl.Trainer, loss: Tensor) -> bool:
        return trainer.world_size == 1 and loss.device.type == "cpu"

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Do not replace a good checkpoint by one that is not finite."""
        del checkpoint
        self._check_loss(trainer)
        tensors = [v for v in pl_module.state_dict().values() if isinstance(v, Tensor)]
        flags = [torch.isfinite(tensor).all() for tensor in tensors if tensor.is_floating_point()]
        finite = torch.stack([flag.to(pl_module.device) for flag in flags]).all().to(torch.int64)
        if not int(_minimum(trainer, finite)):
            self._stop(trainer, f"weights became NaN or infinite at step {trainer.global_step}")

    def _check_loss(self, trainer: pl.Trainer) -> None:
        if self._first is None:
            return
        if (step := int(_minimum(trainer, self._first))) != _NEVER:
            self._stop(trainer, f"the loss became NaN or infinite at step {step}")

    def _stop(self, trainer: pl.Trainer, problem: str) -> None:
        if not trainer.is_global_zero:
            raise SystemExit(2)  # rank 0 prints the reason
        if not self._last.is_file():
            raise UserError(
                f"{problem}, before the first checkpoint. Lower optimizer.lr or raise "
                "schedule.warmup."
            )
        step = read_checkpoint(self._last, mmap=True).get("global_step")
        raise UserError(
            f"{problem}. Restart from the last good checkpoint (step {step}): init={self._last}, "
            "with another hydra.run.dir and a lower optimizer.lr."
        )


def _minimum(trainer: pl.Trainer, value: Tensor) -> Tensor:
    """Return the minimum over the ranks, so that all ranks stop at the same step."""
    if trainer.world_size == 1:
        return value
    return trainer.strategy.reduce(value.clone(), reduce_op="min")

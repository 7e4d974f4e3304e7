"""Learning-rate schedules that advance once an optimizer step."""

import math
from collections.abc import Callable

import pytorch_lightning as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from landmark.error import UserError


def total_steps(trainer: pl.Trainer) -> int:
    """Optimizer steps of the whole training, on each process.

    Lightning's own estimate would make the train batches for it, before a resumed run knows from
    which batch to go on.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None:
        return int(trainer.estimated_stepping_batches)
    batches = data.steps_per_epoch(trainer.world_size)
    limit = trainer.limit_train_batches
    if isinstance(limit, float):
        batches = int(batches * limit)
    elif limit is not None:
        batches = min(batches, limit)
    if trainer.max_epochs in (None, -1):
        return trainer.max_steps
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    final_lr: float = 3e-6,
    warmup: float = 0.0,
    start_at: float = 0.0,
    stop_at: float | None = None,
    of_epochs: float | None = None,
) -> LambdaLR:
    """One cosine from each part's learning rate down to `final_lr`, or a part of a longer one.

    Args:
        optimizer: its groups may have different learning rates; each follows its own cosine.
        total_steps: optimizer steps of the whole training.
        final_lr: learning rate after the cosine's last step.
        warmup: fraction of the cosine's steps, in [0, 1), spent rising linearly from 0 first.
        start_at: epochs of the cosine that earlier runs have done.
        stop_at: epoch of the cosine at which this run ends; None: its last. A run of
            `stop_at - start_at` epochs has at each step the learning rate that one run of
            `of_epochs` epochs has there.
        of_epochs: length of the cosine in epochs; None: this run is the whole of it.

    Raises:
        UserError: `warmup` is outside [0, 1), or not 0 ≤ `start_at` < `stop_at` ≤ `of_epochs`.

    Source:
        Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without restarts.
    """
    _check_warmup(warmup)
    behind, all_steps = _place(total_steps, start_at, stop_at, of_epochs)
    warmup_steps = round(warmup * all_steps)

    def factor_of(base_lr: float) -> Callable[[int], float]:
        floor = min(final_lr / base_lr, 1.0) if base_lr > 0 else 1.0

        def factor(step: int) -> float:
            place = behind + step
            if place < warmup_steps:
                return (place + 1) / warmup_steps
            progress = (place - warmup_steps) / max(1, all_steps - warmup_steps)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

        return factor

    return LambdaLR(optimizer, [factor_of(group["lr"]) for group in optimizer.param_groups])


def _place(
    total_steps: int, start_at: float, stop_at: float | None, of_epochs: float | None
) -> tuple[float, float]:
    """Steps of the cosine before this run, and its steps altogether."""
    if of_epochs is None:
        if start_at != 0 or stop_at is not None:
            raise UserError("schedule.of_epochs: say how many epochs the whole cosine has")
        return 0.0, float(total_steps)
    stop = of_epochs if stop_at is None else stop_at
    if not 0 <= start_at < stop <= of_epochs:
        raise UserError(
            f"schedule.start_at={start_at}, stop_at={stop}, of_epochs={of_epochs}: "
            "the run's part of the cosine must lie within it, start before stop"
        )
    epochs = stop - start_at
    return total_steps * start_at / epochs, total_steps * of_epochs / epochs


def _check_warmup(warmup: float) -> None:
    if not 0 <= warmup < 1:
        raise UserError(f"schedule.warmup={warmup}: give a fraction of the steps in [0, 1)")


def constant(optimizer: Optimizer, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """Each part's learning rate unchanged after an optional linear warm-up.

    Args:
        optimizer: the optimizer.
        total_steps: optimizer steps of the whole training.
        warmup: fraction of the steps, in [0, 1), spent rising linearly from 0 first.

    Raises:
        UserError: `warmup` is outside [0, 1).
    """
    _check_warmup(warmup)
    warmup_steps = round(warmup * total_steps)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))

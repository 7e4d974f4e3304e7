"""Learning-rate schedules that step once per optimizer step."""

import math
from collections.abc import Callable
from typing import Annotated

import pytorch_lightning as pl
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from landmark.data import LandmarkData
from landmark.error import UserError
from landmark.settings import checked

WarmupFraction = Annotated[float, Field(ge=0, lt=1)]


def total_steps(trainer: pl.Trainer) -> int:
    """Return the optimizer steps of the complete training on each rank.

    Lightning's own estimate would create the train dataloader before a resumed run knows its start
    batch.
    """
    data = getattr(trainer, "datamodule", None)
    if data is None:
        return int(trainer.estimated_stepping_batches)
    batches = batches_per_epoch(trainer, data)
    if trainer.max_epochs in (None, -1):
        return trainer.max_steps
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs
    return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)


def batches_per_epoch(trainer: pl.Trainer, data: LandmarkData) -> int:
    """Return the train batches of an epoch on each rank, at most `trainer.limit_train_batches`."""
    batches = data.steps_per_epoch(trainer.world_size)
    limit = trainer.limit_train_batches
    if isinstance(limit, float):
        return int(batches * limit)
    return batches if limit is None else min(batches, limit)


@checked
def cosine(
    optimizer: Optimizer,
    total_steps: int,
    final_lr: NonNegativeFloat = 3e-6,
    warmup: WarmupFraction = 0.0,
    start_at: NonNegativeFloat = 0.0,
    stop_at: PositiveFloat | None = None,
    of_epochs: PositiveFloat | None = None,
) -> LambdaLR:
    """Anneal each group's learning rate to `final_lr` by a cosine, or by a part of a longer one.

    Args:
        optimizer: Each group follows a cosine from its own learning rate.
        total_steps: Optimizer steps of this run.
        final_lr: Learning rate after the last step of the cosine.
        warmup: Fraction of the cosine's steps with a linear warm-up from 0.
        start_at: Epoch of the cosine at which this run starts.
        stop_at: Epoch of the cosine at which this run stops. Defaults to its end. A run of
            `stop_at - start_at` epochs has at each step the learning rate that a single run of
            `of_epochs` epochs has there.
        of_epochs: Length of the cosine in epochs. Defaults to the length of this run.

    Raises:
        UserError: `start_at` < `stop_at` ≤ `of_epochs` does not hold, or `of_epochs` is missing.

    Source:
        Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without restarts.
    """
    steps_before, all_steps = _part_of_cosine(total_steps, start_at, stop_at, of_epochs)
    warmup_steps = round(warmup * all_steps)

    def factor_of(base_lr: float) -> Callable[[int], float]:
        floor = min(final_lr / base_lr, 1.0) if base_lr > 0 else 1.0

        def factor(step: int) -> float:
            position = steps_before + step
            if position < warmup_steps:
                return (position + 1) / warmup_steps
            progress = (position - warmup_steps) / max(1, all_steps - warmup_steps)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

        return factor

    return LambdaLR(optimizer, [factor_of(group["lr"]) for group in optimizer.param_groups])


def _part_of_cosine(
    total_steps: int, start_at: float, stop_at: float | None, of_epochs: float | None
) -> tuple[float, float]:
    """Return the cosine's steps before this run, and its total steps."""
    if of_epochs is None:
        if start_at != 0 or stop_at is not None:
            raise UserError(
                "schedule.of_epochs is missing. Pass the number of epochs of the complete cosine."
            )
        return 0.0, float(total_steps)
    stop = of_epochs if stop_at is None else stop_at
    if not start_at < stop <= of_epochs:
        raise UserError(
            f"schedule.start_at={start_at}, stop_at={stop}, of_epochs={of_epochs} are not a part "
            "of the cosine. Pass start_at < stop_at <= of_epochs."
        )
    epochs = stop - start_at
    return total_steps * start_at / epochs, total_steps * of_epochs / epochs


@checked
def constant(optimizer: Optimizer, total_steps: int, warmup: WarmupFraction = 0.0) -> LambdaLR:
    """Keep each group's learning rate after an optional linear warm-up.

    Args:
        optimizer: The optimizer.
        total_steps: Optimizer steps of this run.
        warmup: Fraction of the steps with a linear warm-up from 0.
    """
    warmup_steps = round(warmup * total_steps)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))

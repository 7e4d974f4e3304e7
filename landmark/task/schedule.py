"""Learning-rate schedules that advance once an optimizer step."""

import math
from collections.abc import Callable

import pytorch_lightning as pl
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from landmark.mistake import UserMistake


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
    optimizer: Optimizer, total_steps: int, final_lr: float = 3e-6, warmup: float = 0.0
) -> LambdaLR:
    """One cosine from each part's learning rate down to `final_lr`, over the whole training.

    Args:
        optimizer: its groups may have different learning rates; each follows its own cosine.
        total_steps: optimizer steps of the whole training.
        final_lr: learning rate after the last step.
        warmup: fraction of the steps, in [0, 1), spent rising linearly from 0 first.

    Raises:
        UserMistake: `warmup` is outside [0, 1).

    Source:
        Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without restarts.
    """
    if not 0 <= warmup < 1:
        raise UserMistake(f"schedule.warmup={warmup}: give a fraction of the steps in [0, 1)")
    warmup_steps = round(warmup * total_steps)

    def factor_of(base_lr: float) -> Callable[[int], float]:
        floor = min(final_lr / base_lr, 1.0) if base_lr > 0 else 1.0

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

        return factor

    return LambdaLR(optimizer, [factor_of(group["lr"]) for group in optimizer.param_groups])


def constant(optimizer: Optimizer, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """Each part's learning rate unchanged after an optional linear warm-up.

    Args:
        optimizer: the optimizer.
        total_steps: optimizer steps of the whole training.
        warmup: fraction of the steps, in [0, 1), spent rising linearly from 0 first.

    Raises:
        UserMistake: `warmup` is outside [0, 1).
    """
    if not 0 <= warmup < 1:
        raise UserMistake(f"schedule.warmup={warmup}: give a fraction of the steps in [0, 1)")
    warmup_steps = round(warmup * total_steps)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))

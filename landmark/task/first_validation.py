"""Check before training that it has steps, and validations for keep=best."""

import math
from typing import Literal

import pytorch_lightning as pl

from landmark.data import LandmarkData
from landmark.error import UserError
from landmark.task.schedule import batches_per_epoch


def check_validations(
    trainer: pl.Trainer, data: LandmarkData, keep: Literal["best", "last"]
) -> None:
    """Check that steps run, that validations are complete, and that keep=best has one.

    A trainer with max_epochs 0 is not checked: the untrained embedder is written.

    Raises:
        UserError: Names the setting to change.
    """
    if trainer.max_epochs == 0:
        return
    _check_trains(trainer, data)
    _check_complete(trainer, data)
    if keep != "best":
        return
    if not data.has_answers:
        raise UserError(
            "keep=best: no validation query has a photo of its landmark in the validation gallery. "
            "Add photos per landmark, or pass keep=last."
        )
    key = _prevents_validation(trainer, batches_per_epoch(trainer, data))
    if key is not None:
        raise UserError(
            f"keep=best needs a validation, and none runs with {key}. Change it, or pass keep=last."
        )


def _check_trains(trainer: pl.Trainer, data: LandmarkData) -> None:
    """Check that a step runs and that a checkpoint is written."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise UserError(
            "trainer.fast_dev_run writes no checkpoint. Remove it and pass trainer.max_steps."
        )
    nothing = None
    if batches_per_epoch(trainer, data) == 0:
        nothing = f"trainer.limit_train_batches={trainer.limit_train_batches}"
        if trainer.limit_train_batches in (None, 1.0):
            nothing = f"batch_size={data.batch_size}"
    elif trainer.max_steps == 0:
        nothing = "trainer.max_steps=0"
    if nothing is not None:
        raise UserError(
            f"{nothing} trains no step. Change it, or pass trainer.max_epochs=0 to write the "
            "untrained embedder."
        )


def _check_complete(trainer: pl.Trainer, data: LandmarkData) -> None:
    """Check that `trainer.limit_val_batches` leaves out no photo, or all of them."""
    limit = trainer.limit_val_batches
    batches = data.validation_batches(trainer.world_size)
    is_partial = (limit if isinstance(limit, int) else limit * batches) < batches
    if limit and is_partial:
        raise UserError(
            f"trainer.limit_val_batches={limit}: a validation of {batches} batches needs all of "
            "them. Pass trainer.limit_val_batches=null, or 0 and keep=last for none."
        )


def _prevents_validation(trainer: pl.Trainer, batches: int) -> str | None:
    """Return the setting with which no validation runs; None if one runs, or it is unknown.

    Args:
        trainer: Trainer of the run.
        batches: Batches of an epoch.

    Raises:
        UserError: Lightning does not accept `val_check_interval`.
    """
    if trainer.limit_val_batches == 0:
        return f"trainer.limit_val_batches={trainer.limit_val_batches}"
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    if every is not None and every > epochs:
        return f"trainer.check_val_every_n_epoch={every} and trainer.max_epochs={epochs}"
    if not isinstance(interval, int | float):
        return None  # a time
    within = interval if isinstance(interval, int) else max(1, int(batches * interval))
    if every is not None and within > batches:
        raise UserError(
            f"trainer.val_check_interval={interval} is more than the {batches} batches of an "
            f"epoch. Pass at most {batches}, or 1.0 for the end of each epoch."
        )
    epochs_before, within = divmod(within, batches) if every is None else (every - 1, within)
    accumulated = trainer.accumulate_grad_batches
    steps = epochs_before * math.ceil(batches / accumulated) + (
        math.ceil(within / accumulated) if within == batches else within // accumulated
    )
    if epochs_before * batches + within > epochs * batches:
        return f"trainer.val_check_interval={interval} and trainer.max_epochs={epochs}"
    if 0 <= trainer.max_steps < steps:
        return f"trainer.max_steps={trainer.max_steps} (the first is after step {steps})"
    return None

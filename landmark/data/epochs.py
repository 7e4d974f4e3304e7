"""A batch sampler whose rows carry the number of the epoch."""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import Sampler

from landmark.data.dataset import EpochRow


class EpochBatches(Sampler[list[EpochRow]]):
    """A batch sampler's rows as pairs (epoch, row), so that workers know the epoch.

    Workers that persist keep the dataset of the first epoch; the epoch can only come to them with
    the index. Lightning calls `set_epoch` of `dataloader.batch_sampler.sampler`, here this object.

    Args:
        batches: batch sampler with `set_epoch(epoch, start_batch)`, which yields lists of rows.
    """

    def __init__(self, batches: Any) -> None:  # noqa: ANN401
        self._batches = batches
        self._epoch = 0

    @property
    def sampler(self) -> "EpochBatches":
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch and the batches to skip; the epoch at hand again changes nothing.

        Lightning names the epoch once more after a resumed run has gone to its start batch.
        """
        if epoch != self._epoch or start_batch:
            self._epoch = epoch
            self._batches.set_epoch(epoch, start_batch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[EpochRow]]:
        epoch = self._epoch
        for rows in self._batches:
            yield [(epoch, row) for row in rows]


def place_in_training(trainer: pl.Trainer, total: int) -> tuple[int, int]:
    """Return the epoch that the trainer trains next, and how many of its `total` batches are done.

    To be asked while the loaders are made: 0 done for a new epoch; for a run resumed in
    mid-epoch, the batches before its checkpoint.
    """
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    batch: Any = loop.epoch_loop.batch_progress.current
    done = batch.processed if epoch.ready > epoch.processed else 0
    return (epoch.processed, done) if done < total else (epoch.ready, 0)

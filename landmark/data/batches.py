"""Batches of a table in a fixed order, and training batches of (epoch, row) pairs."""

import os
import signal
import sys
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from landmark.device import usable_cpus

if TYPE_CHECKING:
    import pytorch_lightning as pl

EpochRow = tuple[int, int]
# How a loader starts its workers: Linux's default until Python 3.14, but not in a process that was
# spawned. Spawned workers would start late, receive pickled copies, and outlive a killed parent.
_SHARED_MEMORY = "/dev/shm"
_BATCHES_PER_WORKER = 3  # two prefetched, one in use
START_METHOD = "fork" if sys.platform == "linux" else None


def default_workers(processes: int = 1) -> int:
    """Return the number of decoding workers of each process: one per CPU in total, at most 8."""
    return min(8, max(1, usable_cpus() // processes))


def affordable_workers(workers: int, batch_bytes: int) -> int:
    """Return how many of `workers` have room in shared memory, through which they send batches.

    A worker that fills it is killed by SIGBUS. Containers often have 64 MiB. A notice is printed
    once.

    Args:
        workers: Workers of a loader.
        batch_bytes: Size of its largest batch.
    """
    if not workers or sys.platform != "linux":
        return workers
    try:
        status = os.statvfs(_SHARED_MEMORY)
        free = status.f_bavail * status.f_frsize if os.access(_SHARED_MEMORY, os.W_OK) else 0
    except OSError:
        free = 0
    affordable = min(workers, free // (batch_bytes * _BATCHES_PER_WORKER))
    if affordable < workers:
        _notice_few_workers(workers, affordable, free)
    return affordable


@cache
def _notice_few_workers(workers: int, affordable: int, free: int) -> None:
    print(
        f"{_SHARED_MEMORY} has {free / 2**20:.0f} MiB free, too little for {workers} workers: "
        f"{affordable} decode. Enlarge it (docker run --shm-size=8g) to train faster.",
        file=sys.stderr,
        flush=True,
    )


def ignore_interrupts(worker: int) -> None:
    """Ignore Ctrl-C in a loader's worker: the training process finishes its step and ends it."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def grouped_batches(
    groups: NDArray[np.integer], batch_size: int, num_replicas: int = 1, rank: int = 0
) -> list[NDArray[np.int64]]:
    """Return every row once, in batches whose photos share a group and can be stacked.

    Rows ascend within a batch, and batches come in the order of their first rows, so that
    neighbours in the table are read together. Each row is in the batches of exactly one process,
    and the processes' numbers of rows differ by at most one.

    Args:
        groups: Aspect group of each row, (N,).
        batch_size: Rows per batch; the last batch of a group may be smaller.
        num_replicas: Number of processes.
        rank: Rank of this process, 0 … num_replicas - 1.

    Example:
        >>> [rows.tolist() for rows in grouped_batches(np.array([0, 1, 0, 0]), batch_size=2)]
        [[0, 2], [1], [3]]
    """
    shard = np.argsort(groups, kind="stable")[rank::num_replicas]
    batches = []
    for group in np.unique(groups[shard]):
        rows = shard[groups[shard] == group]
        batches += [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return sorted(batches, key=lambda rows: int(rows[0]))


class EpochBatches(Sampler[list[EpochRow]]):
    """The rows of a batch sampler as pairs (epoch, row).

    Persistent workers keep the dataset of the first epoch; only the index can pass them the epoch.
    Lightning calls `set_epoch` of `dataloader.batch_sampler.sampler`, which is this object.

    Args:
        batches: Batch sampler with `set_epoch(epoch, start_batch)` that yields lists of rows.
    """

    def __init__(self, batches: Any) -> None:  # noqa: ANN401
        self._batches = batches
        self._epoch = 0

    @property
    def sampler(self) -> "EpochBatches":
        """This object, on which Lightning calls `set_epoch`."""
        return self

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Set the epoch and the number of leading batches to skip.

        Idempotent: setting the current epoch again is a no-op. Lightning does so after a resumed
        run has skipped to its start batch.
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


def training_position(trainer: "pl.Trainer", total: int) -> tuple[int, int]:
    """Return the next epoch and how many of its `total` batches a resumed run has done.

    Valid only while the loaders are created.
    """
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    batch: Any = loop.epoch_loop.batch_progress.current
    done = batch.processed if epoch.ready > epoch.processed else 0
    return (epoch.processed, done) if done < total else (epoch.ready, 0)

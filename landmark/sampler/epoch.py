"""What the batch samplers share: an epoch drawn up whole, and each process's part of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from landmark.error import UserError


@dataclass(frozen=True)
class Epoch:
    """One epoch's steps over all processes.

    Step i takes `rows[starts[i] : starts[i] + num_replicas * sizes[i]]`, `sizes[i]` in a row for
    each process: at any step all processes hold batches of one size and one aspect group, so none
    waits for another and the mean of their gradients is the mean over the photos.

    Attributes:
        rows: Photos in the order in which they are taken; a repeated photo stands twice.
        starts: First position of each step in `rows`, (S,).
        sizes: Photos a process at each step, (S,).
    """

    rows: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def batch(self, step: int, rank: int) -> list[int]:
        """The photos of one process at one step."""
        size = int(self.sizes[step])
        start = int(self.starts[step]) + rank * size
        return self.rows[start : start + size].tolist()


class EpochSampler(Sampler[list[int]], ABC):
    """Base of the batch samplers; a sampler is one file that overrides `draw` and `steps`.

    The order depends on `seed` and the epoch alone, so each process draws up the same epoch and
    takes its part with no word to the others. Call `set_epoch` before each epoch: without it every
    epoch has the same order.

    Args:
        groups: Aspect group of each photo, (N,) int; the photos of a batch share one.
        labels: Class of each photo, (N,) int.
        batch_size: Photos a batch, on each process.
        seed: Of the order.
        num_replicas: Number of processes.
        rank: This process, 0 ... num_replicas - 1.

    Raises:
        UserError: There are no photos, or the batch size is below 1.
    """

    def __init__(
        self,
        groups: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        seed: int = 0,
        *,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        self.groups, self.labels = np.asarray(groups), np.asarray(labels)
        if self.groups.shape != self.labels.shape or self.groups.ndim != 1:
            raise ValueError(f"groups {self.groups.shape} and labels {self.labels.shape} differ")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank {rank} is none of {num_replicas} processes")
        if len(self.groups) == 0:
            raise UserError("there are no photos to make batches of")
        if batch_size < 1:
            raise UserError(f"the batch size {batch_size} must be 1 or more")
        self.batch_size = batch_size
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self.start_batch = 0

    @abstractmethod
    def draw(self, random: np.random.Generator) -> Epoch:
        """Draw up one epoch; its number of steps is `steps`, whatever `random` gives."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Batches each process takes in an epoch, the same in every epoch."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch to iterate next.

        Args:
            epoch: Number of the epoch; it chooses the order.
            start_batch: Batches to pass over at its beginning, for going on in mid-epoch.
        """
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Batches of a whole epoch on this process, those that `start_batch` passes over too."""
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of photo numbers, all of one aspect group."""
        epoch = self.draw(np.random.default_rng((self.seed, self.epoch)))
        for step in range(self.start_batch, len(epoch.starts)):
            yield epoch.batch(step, self.rank)


def in_random_order(
    rows: np.ndarray, starts: np.ndarray, sizes: np.ndarray, random: np.random.Generator
) -> Epoch:
    """The epoch of these steps, shuffled so that the groups mix over time."""
    order = random.permutation(len(starts))
    return Epoch(rows, starts[order], sizes[order])


def shuffled_by_cell(cell_of: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """All photos, those of one cell side by side and the cells rising, each cell shuffled.

    Args:
        cell_of: Cell of each photo, (N,) int from 0.
        random: Shuffles.

    Returns:
        (N,) int32, photo numbers.
    """
    shuffled = random.permutation(np.arange(len(cell_of), dtype=np.int32))
    return shuffled[np.argsort(cell_of[shuffled], kind="stable")]


def share_out(total: int, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Whole numbers that sum to `total` and whose expectation is exactly `total * shares`.

    Systematic sampling: each number is its expectation rounded down or up.

    Args:
        total: The sum.
        shares: (G,), sum 1.
        random: Rounds.

    Returns:
        (G,) int.
    """
    bounds = np.concatenate([[0.0], np.cumsum(shares)]) * total
    bounds[-1] = total
    return np.diff(np.floor(bounds + random.random() * (1 - 1e-9)).astype(np.int64))

"""Base of the batch samplers: an epoch planned for all processes, and the batches of each."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Required, TypedDict

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from torch.utils.data import Sampler

from landmark.error import UserError
from landmark.settings import checked


class SamplerOptions(TypedDict, total=False):
    """What every batch sampler is constructed with, by keyword.

    Attributes:
        groups: Aspect group of each photo, (N,) int; the photos of a batch share one.
        labels: Label of each photo, (N,) int.
        batch_size: Photos per batch on each process.
        seed: Seed of the order.
        num_replicas: Number of processes.
        rank: Rank of this process, 0 ... num_replicas - 1.
    """

    groups: Required[np.ndarray]
    labels: Required[np.ndarray]
    batch_size: Required[PositiveInt]
    seed: NonNegativeInt
    num_replicas: PositiveInt
    rank: NonNegativeInt


class EpochSampler(Sampler[list[int]], ABC):
    """Base of the batch samplers; a sampler is one file that overrides `draw`.

    The order depends on `seed` and the epoch alone, so each process plans the same epoch and takes
    its own batches: ranks need no communication. At any step all processes have batches of one size
    and one aspect group, so none waits for another and the mean of their gradients is the mean over
    the photos. Call `set_epoch` before each epoch; without it every epoch has the same order.

    Args:
        groups, labels, batch_size, seed, num_replicas, rank: See `SamplerOptions`.

    Raises:
        UserError: There are no photos, or a setting is not valid.
    """

    @checked
    def __init__(
        self,
        *,
        groups: np.ndarray,
        labels: np.ndarray,
        batch_size: PositiveInt,
        seed: NonNegativeInt = 0,
        num_replicas: PositiveInt = 1,
        rank: NonNegativeInt = 0,
    ) -> None:
        self.groups, self.labels = np.asarray(groups), np.asarray(labels)
        if self.groups.shape != self.labels.shape or self.groups.ndim != 1:
            raise ValueError(f"groups {self.groups.shape} and labels {self.labels.shape} differ")
        if rank >= num_replicas:
            raise ValueError(f"rank {rank} is not below num_replicas={num_replicas}")
        if len(self.groups) == 0:
            raise UserError("there are no photos to train with. Check data.root and its splits.")
        self.batch_size = batch_size
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self.start_batch = 0

    @abstractmethod
    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Plan the steps of one epoch over all processes; `__iter__` shuffles them.

        Returns:
            The photos, step by step, a repeated photo twice; and the photos per process at each
            step, (`steps`,): step i takes the next `sizes[i] * num_replicas` photos, `sizes[i]`
            consecutive ones for each process.
        """

    @property
    def step_size(self) -> int:
        """Photos of a full step on all processes."""
        return self.batch_size * self.num_replicas

    @property
    def steps(self) -> int:
        """Batches that each process takes in an epoch, the same in every epoch."""
        return -(-len(self.labels) // self.step_size)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch to iterate next.

        Args:
            epoch: Number of the epoch, which determines the order.
            start_batch: Batches to skip at its beginning, to resume in mid-epoch.
        """
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Return the batches of a complete epoch on this process, skipped ones included."""
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        """Yield batches of photo numbers, each of one aspect group; the groups mix over time."""
        random = np.random.default_rng((self.seed, self.epoch))
        rows, sizes = self.draw(random)
        ends = np.cumsum(sizes) * self.num_replicas
        for step in random.permutation(len(sizes))[self.start_batch :]:
            start = ends[step] - (self.num_replicas - self.rank) * sizes[step]
            yield rows[start : start + sizes[step]].tolist()


def shuffle_within_cells(cell_of: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return all photos sorted by their cell, in random order within each cell.

    Args:
        cell_of: Cell of each photo, (N,) int from 0; a cell is an aspect group, or a landmark
            within one.
        random: Shuffles.

    Returns:
        Photo numbers, (N,) int32.
    """
    shuffled = random.permutation(np.arange(len(cell_of), dtype=np.int32))
    return shuffled[np.argsort(cell_of[shuffled], kind="stable")]


def apportion(total: int, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw whole numbers with the sum `total` and the expectation `total * shares`.

    Systematic sampling: each number is its expectation rounded down or up.

    Args:
        total: The sum.
        shares: (G,), sum 1.
        random: Rounds.

    Returns:
        (G,) int.

    Example:
        >>> apportion(4, np.array([0.5, 0.25, 0.25]), np.random.default_rng(0)).tolist()
        [2, 1, 1]
    """
    bounds = np.concatenate([[0.0], np.cumsum(shares)]) * total
    bounds[-1] = total
    return np.diff(np.floor(bounds + random.random() * (1 - 1e-9)).astype(np.int64))

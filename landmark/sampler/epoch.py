"""Base of the batch samplers: plan an epoch for all processes, yield the batches of one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Required, TypedDict

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from torch.utils.data import Sampler

from landmark.error import UserError
from landmark.settings import BatchSize, Seed, checked


class SamplerOptions(TypedDict, total=False):
    """Options of every batch sampler, passed through as keywords.

    Attributes:
        groups: Aspect group of each photo, (N,) int; a batch has photos of one group.
        labels: Label of each photo, (N,) int.
        batch_size: Photos per batch on each process.
        seed: Seed of the order of the photos.
        num_replicas: Number of processes.
        rank: Rank of this process, 0 ... num_replicas - 1.
    """

    groups: Required[np.ndarray]
    labels: Required[np.ndarray]
    batch_size: Required[BatchSize]
    seed: Seed
    num_replicas: PositiveInt
    rank: NonNegativeInt


class EpochSampler(Sampler[list[int]], ABC):
    """Base of the batch samplers; a new sampler is one file with a subclass that overrides `draw`.

    The order depends only on `seed` and the epoch, so that each process plans the same epoch and
    takes its own batches without communication. At each step the batches of all processes have the
    same size and aspect group, so that no process waits for another and the mean of their gradients
    is the mean over the photos. Call `set_epoch` before each epoch, otherwise the order repeats.

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
        batch_size: BatchSize,
        seed: Seed = 0,
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
        """Plan the steps of one epoch for all processes; `__iter__` shuffles them.

        Returns:
            The photos, step by step, and the number `sizes` of photos per process at each step,
            (`steps`,). Step i has the next `sizes[i] * num_replicas` photos, of which each process
            takes `sizes[i]` consecutive ones.
        """

    @property
    def step_size(self) -> int:
        """Photos of a full step on all processes."""
        return self.batch_size * self.num_replicas

    @property
    def steps(self) -> int:
        """Batches per process in an epoch, the same in every epoch."""
        return -(-len(self.labels) // self.step_size)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Set the epoch of the next iteration.

        Args:
            epoch: Epoch number, which determines the order.
            start_batch: Number of batches to skip, to resume in mid-epoch.
        """
        self.epoch = epoch
        self.start_batch = start_batch

    def __len__(self) -> int:
        """Return the number of batches per process in a complete epoch, skipped ones included."""
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's batches of photo numbers, in random order of all aspect groups."""
        random = np.random.default_rng((self.seed, self.epoch))
        rows, sizes = self.draw(random)
        ends = np.cumsum(sizes) * self.num_replicas
        for step in random.permutation(len(sizes))[self.start_batch :]:
            start = ends[step] - (self.num_replicas - self.rank) * sizes[step]
            yield rows[start : start + sizes[step]].tolist()


def shuffle_within_cells(cell_of: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return all photos sorted by cell, in random order within each cell.

    Args:
        cell_of: Cell of each photo, (N,) int from 0; a cell is an aspect group, or a landmark
            within an aspect group.
        random: Random generator.

    Returns:
        Photo numbers, (N,) int32.
    """
    shuffled = random.permutation(np.arange(len(cell_of), dtype=np.int32))
    return shuffled[np.argsort(cell_of[shuffled], kind="stable")]


def apportion(total: int, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw whole numbers with the sum `total` and the expectation `total * shares`.

    Systematic sampling: each number is its expectation rounded down or up.

    Args:
        total: Sum of the numbers.
        shares: Shares of the sum, (G,), which add up to 1.
        random: Random generator.

    Returns:
        (G,) int.

    Example:
        >>> apportion(4, np.array([0.5, 0.25, 0.25]), np.random.default_rng(0)).tolist()
        [2, 1, 1]
    """
    bounds = np.concatenate([[0.0], np.cumsum(shares)]) * total
    bounds[-1] = total
    return np.diff(np.floor(bounds + random.random() * (1 - 1e-9)).astype(np.int64))

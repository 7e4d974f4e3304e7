"""Batches of one aspect group, every photo once an epoch."""

import numpy as np

from landmark.error import UserError
from landmark.sampler.epoch import Epoch, EpochSampler, in_random_order, shuffled_by_cell


class Aspect(EpochSampler):
    """Batches of one aspect group, every photo once an epoch: the recipe's sampler.

    The photos of each group are shuffled and cut into steps of batch_size * num_replicas photos.
    What is left at a group's end, r photos, makes one smaller step: ceil(r / num_replicas) photos
    a process, but at least 2 (BatchNorm needs two; with batch_size 1 it stays 1). Where r does not
    fill it, the group's first photos of this epoch come again: at most 2 * num_replicas - 1 of
    them, and no others are seen twice. The order of the steps is shuffled over the groups.

    Args:
        groups: Aspect group of each photo, (N,) int; the photos of a batch share one.
        labels: Class of each photo, (N,) int; not looked at.
        batch_size: Photos a batch, on each process.
        seed: Of the order.
        num_replicas: Number of processes.
        rank: This process, 0 ... num_replicas - 1.
        drop_last: Leave out each group's smaller step instead, so that all batches are of one
            size; up to batch_size * num_replicas - 1 photos a group miss the epoch.

    Raises:
        UserError: There are no photos, or `drop_last` leaves no batch.
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
        drop_last: bool = False,
    ) -> None:
        super().__init__(groups, labels, batch_size, seed, num_replicas=num_replicas, rank=rank)
        _, self._group_of, self._counts = np.unique(
            self.groups, return_inverse=True, return_counts=True
        )
        self.drop_last = drop_last
        self._steps_of_group = self._counts // self._step
        if not drop_last:
            self._steps_of_group = -(-self._counts // self._step)
        if self.steps == 0:
            raise UserError(
                f"no aspect group has the {self._step} photos of one whole step: "
                "choose a smaller batch size or sampler.drop_last=false"
            )

    @property
    def _step(self) -> int:
        return self.batch_size * self.num_replicas

    @property
    def steps(self) -> int:
        """Batches each process takes in an epoch, the same in every epoch."""
        return int(self._steps_of_group.sum())

    def draw(self, random: np.random.Generator) -> Epoch:
        """Shuffle each group, cut it into steps, shuffle the steps."""
        order = shuffled_by_cell(self._group_of, random)
        parts, starts, sizes, taken = [], [], [], 0
        for rows, steps in zip(
            np.split(order, np.cumsum(self._counts)[:-1]), self._steps_of_group, strict=True
        ):
            size = np.full(steps, self.batch_size)
            if not self.drop_last:
                size[-1] = self._size_of_last(len(rows))
            total = int(size.sum()) * self.num_replicas
            parts.append(np.resize(rows, total))  # cut to the steps, or wrapped to fill them
            starts.append(taken + np.arange(steps) * self._step)
            sizes.append(size)
            taken += total
        return in_random_order(
            np.concatenate(parts), np.concatenate(starts), np.concatenate(sizes), random
        )

    def _size_of_last(self, photos: int) -> int:
        left = photos % self._step or self._step
        return min(self.batch_size, max(2, -(-left // self.num_replicas)))

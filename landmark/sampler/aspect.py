"""Batches of one aspect group, every photo once per epoch."""

from typing import Unpack

import numpy as np

from landmark.error import UserError
from landmark.sampler.epoch import EpochSampler, SamplerOptions, shuffle_within_cells
from landmark.settings import checked


class Aspect(EpochSampler):
    """Batches of one aspect group, every photo once per epoch. The recipe uses this sampler.

    The photos of each group are shuffled and split into steps of batch_size * num_replicas photos.
    The remaining r photos of a group form one smaller step: ceil(r / num_replicas) photos per
    process, but at least 2 because of BatchNorm (1 if batch_size is 1). If r photos do not fill it,
    the group's first photos of this epoch are repeated, at most 2 * num_replicas - 1 of them. The
    steps of all groups are shuffled together.

    Args:
        drop_last: Drop each group's smaller step instead, so that all batches have one size. Up to
            batch_size * num_replicas - 1 photos per group are then left out of an epoch.
        **options: See `SamplerOptions`; the labels are ignored.

    Raises:
        UserError: There are no photos, or `drop_last` leaves no batch.

    Example:
        >>> groups = np.array([0, 0, 0, 1, 1, 1])
        >>> sampler = Aspect(groups=groups, labels=groups, batch_size=3)
        >>> sorted(sorted(batch) for batch in sampler)
        [[0, 1, 2], [3, 4, 5]]
    """

    @checked
    def __init__(self, *, drop_last: bool = False, **options: Unpack[SamplerOptions]) -> None:
        super().__init__(**options)
        self.drop_last = drop_last
        _, self._group_of, self._counts = np.unique(
            self.groups, return_inverse=True, return_counts=True
        )
        rounded = self._counts if drop_last else self._counts + self.step_size - 1
        self._steps_of_group = rounded // self.step_size
        if self.steps == 0:
            raise UserError(
                f"no aspect group has the {self.step_size} photos of one full step. Pass a smaller "
                "batch_size or sampler.drop_last=false."
            )

    @property
    def steps(self) -> int:
        """Batches per process in an epoch, the same in every epoch."""
        return int(self._steps_of_group.sum())

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Shuffle each group and split it into steps."""
        order = shuffle_within_cells(self._group_of, random)
        rows, sizes = [], []
        for photos, steps in zip(
            np.split(order, np.cumsum(self._counts)[:-1]), self._steps_of_group, strict=True
        ):
            size = np.full(steps, self.batch_size)
            if not self.drop_last:
                size[-1] = self._last_size(len(photos))
            # Truncate the photos to the steps, or repeat the first ones to fill them.
            rows.append(np.resize(photos, size.sum() * self.num_replicas))
            sizes.append(size)
        return np.concatenate(rows), np.concatenate(sizes)

    def _last_size(self, photos: int) -> int:
        remaining = photos % self.step_size or self.step_size
        return min(self.batch_size, max(2, -(-remaining // self.num_replicas)))

"""Batches of P landmarks with K photos each."""

from typing import Unpack

import numpy as np
from pydantic import PositiveInt

from landmark.error import UserError
from landmark.sampler.epoch import EpochSampler, SamplerOptions, apportion, shuffle_within_cells
from landmark.settings import checked


class PerClass(EpochSampler):
    """Batches of P landmarks with K photos each, all of one aspect group.

    An epoch has ceil(N / (P * K * num_replicas)) steps, apportioned to the aspect groups by their
    numbers of photos. Within a group the landmarks are equally likely: each round takes them in
    random order, P at a time, and skips the fewer than P that remain at its end. Each time a
    landmark is taken, it contributes its next K photos of the group, cyclically in an order that
    changes each epoch; a landmark with fewer than K photos repeats them in the batch. A group with
    fewer than P landmarks has smaller batches, of all its landmarks.

    Args:
        classes_per_batch: Landmarks P in a batch.
        photos_per_class: Photos K of each landmark.
        **options: See `SamplerOptions`; the batch size is P * K.

    Raises:
        UserError: There are no photos, or P * K is not the batch size.

    Example:
        >>> labels = np.repeat([0, 1, 2], 4)
        >>> sampler = PerClass(groups=np.zeros(12), labels=labels, batch_size=4,
        ...                    classes_per_batch=2, photos_per_class=2)
        >>> [sorted(np.bincount(labels[batch], minlength=3).tolist()) for batch in sampler]
        [[0, 2, 2], [0, 2, 2], [0, 2, 2]]
    """

    @checked
    def __init__(
        self,
        *,
        classes_per_batch: PositiveInt = 8,
        photos_per_class: PositiveInt = 4,
        **options: Unpack[SamplerOptions],
    ) -> None:
        super().__init__(**options)
        if classes_per_batch * photos_per_class != self.batch_size:
            raise UserError(
                f"sampler.classes_per_batch={classes_per_batch} x sampler.photos_per_class="
                f"{photos_per_class} is not batch_size={self.batch_size}. Pass numbers that agree."
            )
        self.classes_per_batch = classes_per_batch
        self.photos_per_class = photos_per_class
        landmarks, label_of = np.unique(self.labels, return_inverse=True)
        _, group_of, photos = np.unique(self.groups, return_inverse=True, return_counts=True)
        # A cell is a landmark within an aspect group; cells of one group are consecutive.
        cells, self._cell_of, self._counts = np.unique(
            group_of * len(landmarks) + label_of, return_inverse=True, return_counts=True
        )
        self._first = np.cumsum(self._counts) - self._counts
        self._cells_of_group = np.bincount(cells // len(landmarks))
        self._shares = photos / len(self.labels)

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Apportion the steps to the groups, choose each batch's landmarks, then their photos."""
        steps_of_group = apportion(self.steps, self._shares, random)
        per_batch = np.minimum(self.classes_per_batch, self._cells_of_group)
        chosen, first_cell = [], 0
        for steps, cells, count in zip(
            steps_of_group, self._cells_of_group, per_batch, strict=True
        ):
            chosen.append(first_cell + _rounds(cells, count, steps * self.num_replicas, random))
            first_cell += cells
        rows = self._photos_of(np.concatenate(chosen), random)
        return rows, np.repeat(per_batch * self.photos_per_class, steps_of_group)

    def _photos_of(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the next K photos of each of the cells (M,): (M * K,)."""
        order = shuffle_within_cells(self._cell_of, random)
        by_cell = np.argsort(cells, kind="stable")
        times = np.bincount(cells, minlength=len(self._counts))
        turn = np.empty(len(cells), np.int64)  # number of earlier occurrences of the cell, (M,)
        turn[by_cell] = np.arange(len(cells)) - np.repeat(np.cumsum(times) - times, times)
        position = turn[:, None] * self.photos_per_class + np.arange(self.photos_per_class)
        position = self._first[cells, None] + position % self._counts[cells, None]  # (M, K)
        return order[position.ravel()]


def _rounds(cells: int, count: int, batches: int, random: np.random.Generator) -> np.ndarray:
    """Draw `count` distinct numbers below `cells` for each batch: (batches * count,)."""
    batches_per_round = cells // count
    rounds = -(-batches // batches_per_round)
    order = random.permuted(np.tile(np.arange(cells), (rounds, 1)), axis=1)
    return order[:, : batches_per_round * count].ravel()[: batches * count]

"""Batches of a few photos of each of a few landmarks."""

import numpy as np

from landmark.error import UserError
from landmark.sampler.epoch import (
    Epoch,
    EpochSampler,
    in_random_order,
    share_out,
    shuffled_by_cell,
)


class PerClass(EpochSampler):
    """Batches of P landmarks and K photos of each, all of one aspect group.

    An epoch has ceil(N / (P * K * num_replicas)) steps, shared among the aspect groups by their
    photos. Within a group the landmarks are equally likely: they are gone through in random order,
    P at a time, all before any comes again (but for the fewer than P left at the end of a round).
    Each time a landmark comes, its next K photos of the group are taken, round and round in an
    order that is new each epoch; one of fewer than K photos there repeats them in the batch. A
    group of fewer than P landmarks has smaller batches, of all its landmarks.

    Args:
        groups: Aspect group of each photo, (N,) int; the photos of a batch share one.
        labels: Landmark of each photo, (N,) int.
        batch_size: Photos a batch, on each process: P * K.
        seed: Of the draw.
        num_replicas: Number of processes.
        rank: This process, 0 ... num_replicas - 1.
        classes_per_batch: P.
        photos_per_class: K.

    Raises:
        UserError: There are no photos, or P * K is not the batch size.
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
        classes_per_batch: int = 8,
        photos_per_class: int = 4,
    ) -> None:
        super().__init__(groups, labels, batch_size, seed, num_replicas=num_replicas, rank=rank)
        if classes_per_batch * photos_per_class != batch_size:
            raise UserError(
                f"sampler.classes_per_batch={classes_per_batch} x sampler.photos_per_class="
                f"{photos_per_class} is not the batch size {batch_size}: make them agree"
            )
        self.classes_per_batch = classes_per_batch
        self.photos_per_class = photos_per_class
        landmarks, label_of = np.unique(self.labels, return_inverse=True)
        _, group_of, photos = np.unique(self.groups, return_inverse=True, return_counts=True)
        # A cell is a landmark within an aspect group; cells of one group are side by side.
        cells, self._cell_of, self._counts = np.unique(
            group_of * len(landmarks) + label_of, return_inverse=True, return_counts=True
        )
        self._first = np.cumsum(self._counts) - self._counts
        self._cells_of_group = np.bincount(cells // len(landmarks))
        self._shares = photos / len(self.labels)

    @property
    def steps(self) -> int:
        """Batches each process takes in an epoch, the same in every epoch."""
        return -(-len(self.labels) // (self.batch_size * self.num_replicas))

    def draw(self, random: np.random.Generator) -> Epoch:
        """Share the steps among the groups, choose each batch's landmarks, then their photos."""
        steps_of_group = share_out(self.steps, self._shares, random)
        per_batch = np.minimum(self.classes_per_batch, self._cells_of_group)
        chosen, first_cell = [], 0
        for steps, cells, wanted in zip(
            steps_of_group, self._cells_of_group, per_batch, strict=True
        ):
            chosen.append(first_cell + _rounds(cells, wanted, steps * self.num_replicas, random))
            first_cell += cells
        rows = self._photos_of(np.concatenate(chosen), random)
        sizes = np.repeat(per_batch * self.photos_per_class, steps_of_group)
        taken = sizes * self.num_replicas
        return in_random_order(rows, np.cumsum(taken) - taken, sizes, random)

    def _photos_of(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The next K photos of each cell in turn: cells (M,), result (M * K,)."""
        order = shuffled_by_cell(self._cell_of, random)
        by_cell = np.argsort(cells, kind="stable")
        times = np.bincount(cells, minlength=len(self._counts))
        turn = np.empty(len(cells), np.int64)  # how often the cell came before, (M,)
        turn[by_cell] = np.arange(len(cells)) - np.repeat(np.cumsum(times) - times, times)
        place = turn[:, None] * self.photos_per_class + np.arange(self.photos_per_class)
        place = self._first[cells, None] + place % self._counts[cells, None]  # (M, K)
        return order[place.ravel()]


def _rounds(cells: int, wanted: int, batches: int, random: np.random.Generator) -> np.ndarray:
    """`batches` times `wanted` distinct numbers below `cells`, end to end: (batches * wanted,)."""
    batches_per_round = cells // wanted
    rounds = -(-batches // batches_per_round)
    order = random.permuted(np.tile(np.arange(cells), (rounds, 1)), axis=1)
    return order[:, : batches_per_round * wanted].ravel()[: batches * wanted]

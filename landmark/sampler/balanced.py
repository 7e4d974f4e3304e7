"""Batches of one aspect group in which every landmark is as likely as any other."""

import numpy as np

from landmark.sampler.epoch import (
    Epoch,
    EpochSampler,
    in_random_order,
    share_out,
    shuffled_by_cell,
)


class Balanced(EpochSampler):
    """Batches of one aspect group, drawn so that all landmarks are equally likely.

    A photo's chance is 1 / (photos of its landmark). An epoch has ceil(N / (batch_size *
    num_replicas)) steps, all full; it repeats photos of rare landmarks and leaves out photos of
    frequent ones, others in each epoch. The steps are shared among the groups by their chance, and
    a group's photos are drawn evenly spaced over its landmarks: a landmark of n expected photos in
    the group gets n rounded down or up, and each of its photos comes again only after all of them
    have been.

    Args:
        groups: Aspect group of each photo, (N,) int; the photos of a batch share one.
        labels: Landmark of each photo, (N,) int.
        batch_size: Photos a batch, on each process.
        seed: Of the draw.
        num_replicas: Number of processes.
        rank: This process, 0 ... num_replicas - 1.

    Raises:
        UserError: There are no photos.
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
        super().__init__(groups, labels, batch_size, seed, num_replicas=num_replicas, rank=rank)
        _, label_of, photos = np.unique(self.labels, return_inverse=True, return_counts=True)
        _, group_of, counts = np.unique(self.groups, return_inverse=True, return_counts=True)
        self._chance = 1 / (photos[label_of] * len(photos))  # sums to 1 over all photos
        self._cell_of = group_of * len(photos) + label_of
        self._bounds = np.concatenate([[0], np.cumsum(counts)])
        self._shares = np.bincount(group_of, weights=self._chance)

    @property
    def steps(self) -> int:
        """Batches each process takes in an epoch, the same in every epoch."""
        return -(-len(self.labels) // (self.batch_size * self.num_replicas))

    def draw(self, random: np.random.Generator) -> Epoch:
        """Share the steps among the groups and fill them evenly over the landmarks."""
        step = self.batch_size * self.num_replicas
        order = shuffled_by_cell(self._cell_of, random)
        parts = []
        for group, steps in enumerate(share_out(self.steps, self._shares, random)):
            rows = order[self._bounds[group] : self._bounds[group + 1]]
            reached = np.cumsum(self._chance[rows])
            points = (np.arange(steps * step) + random.random()) / max(1, steps * step)
            drawn = np.searchsorted(reached, points * reached[-1], side="right")
            parts.append(random.permutation(rows[np.minimum(drawn, len(rows) - 1)]))
        starts = np.arange(self.steps) * step
        return in_random_order(
            np.concatenate(parts), starts, np.full(self.steps, self.batch_size), random
        )

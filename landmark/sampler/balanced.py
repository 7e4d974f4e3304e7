"""Batches of one aspect group in which every landmark is equally likely."""

from typing import Unpack

import numpy as np

from landmark.sampler.epoch import EpochSampler, SamplerOptions, apportion, shuffle_within_cells


class Balanced(EpochSampler):
    """Batches of one aspect group in which all landmarks are equally likely.

    A photo's probability is proportional to 1 / (photos of its landmark). An epoch has
    ceil(N / (batch_size * num_replicas)) full steps; it repeats photos of rare landmarks and leaves
    out photos of frequent ones, different ones in each epoch. The steps are apportioned to the
    groups by their probability. A group's photos are drawn by systematic sampling: a landmark with
    n expected photos in the group gets n rounded down or up, and none of its photos is repeated
    before all of them are drawn.

    Args:
        **options: See `SamplerOptions`.

    Raises:
        UserError: There are no photos.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 0, 1])
        >>> batch, = Balanced(groups=np.zeros(6), labels=labels, batch_size=6)
        >>> np.bincount(labels[batch]).tolist()
        [3, 3]
    """

    def __init__(self, **options: Unpack[SamplerOptions]) -> None:
        super().__init__(**options)
        _, label_of, photos = np.unique(self.labels, return_inverse=True, return_counts=True)
        _, group_of, counts = np.unique(self.groups, return_inverse=True, return_counts=True)
        self._probability = 1 / (photos[label_of] * len(photos))  # sums to 1 over all photos
        self._cell_of = group_of * len(photos) + label_of
        self._bounds = np.concatenate([[0], np.cumsum(counts)])
        self._shares = np.bincount(group_of, weights=self._probability)

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Apportion the steps to the groups and fill them evenly over the landmarks."""
        order = shuffle_within_cells(self._cell_of, random)
        parts = []
        for group, steps in enumerate(apportion(self.steps, self._shares, random)):
            rows = order[self._bounds[group] : self._bounds[group + 1]]
            cumulative = np.cumsum(self._probability[rows])
            photos = steps * self.step_size
            points = (np.arange(photos) + random.random()) / max(1, photos)
            drawn = np.searchsorted(cumulative, points * cumulative[-1], side="right")
            parts.append(random.permutation(rows[np.minimum(drawn, len(rows) - 1)]))
        return np.concatenate(parts), np.full(self.steps, self.batch_size)

"""Batches from one shuffled order of all photos."""

import numpy as np

from landmark.error import UserError
from landmark.sampler.aspect import Aspect


class Shuffle(Aspect):
    """Batches from one shuffled order of all photos, every photo once an epoch.

    A batch is one tensor, so all photos must share one size: one aspect group. The end of the
    epoch is filled as in `Aspect`.

    Args:
        groups: Aspect group of each photo, (N,) int, all the same.
        labels: Class of each photo, (N,) int; not looked at.
        batch_size: Photos a batch, on each process.
        seed: Of the order.
        num_replicas: Number of processes.
        rank: This process, 0 ... num_replicas - 1.
        drop_last: Leave out the last step where it is smaller than the others.

    Raises:
        UserError: There are several aspect groups, no photos, or `drop_last` leaves no batch.
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
        groups = np.asarray(groups)
        if len(groups) and (groups != groups[0]).any():
            raise UserError(
                "sampler=shuffle needs one image size: choose image=px224 (or another px…) "
                "or sampler=aspect"
            )
        super().__init__(
            groups,
            labels,
            batch_size,
            seed,
            num_replicas=num_replicas,
            rank=rank,
            drop_last=drop_last,
        )

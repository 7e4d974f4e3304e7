"""Batches from one shuffled order of all photos."""

from typing import Unpack

import numpy as np

from landmark.error import UserError
from landmark.sampler.aspect import Aspect
from landmark.sampler.epoch import SamplerOptions
from landmark.settings import checked


class Shuffle(Aspect):
    """Batches from one shuffled order of all photos, every photo once per epoch.

    A batch is one tensor, so all photos must be of one size: one aspect group. The last step is
    filled as in `Aspect`.

    Args:
        drop_last: Drop the last step if it is not full.
        **options: See `SamplerOptions`; the labels are ignored.

    Raises:
        UserError: There are several aspect groups, no photos, or `drop_last` leaves no batch.
    """

    @checked
    def __init__(self, *, drop_last: bool = False, **options: Unpack[SamplerOptions]) -> None:
        if len(np.unique(options["groups"])) > 1:
            raise UserError(
                "sampler=shuffle needs one image size. Pass image=px224 (or another px…) or "
                "sampler=aspect."
            )
        super().__init__(drop_last=drop_last, **options)

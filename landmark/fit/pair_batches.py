"""Batches of photos for pair models: their strongest local descriptors, padded."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from landmark.artifact.local_features import LocalFeatureStore


@dataclass(frozen=True)
class Photos:
    """Descriptors of photos, those of the highest scores first.

    Attributes:
        rows: (B, n, D), unit rows.
        padding: (B, n), True = padding.
        count: Number of leading rows that the model may see.
    """

    rows: Tensor
    padding: Tensor
    count: int

    def first(self) -> tuple[Tensor, Tensor]:
        """Return the rows that the model may see, and their padding."""
        return self.rows[:, : self.count], self.padding[:, : self.count]

    def __getitem__(self, part: slice) -> "Photos":
        return Photos(self.rows[part], self.padding[part], self.count)

    def __len__(self) -> int:
        return len(self.rows)

    def repeated(self) -> "Photos":
        """Return the photos twice."""
        return Photos(torch.cat([self.rows] * 2), torch.cat([self.padding] * 2), self.count)


class Descriptors:
    """Reads the strongest local descriptors of photos from a memory-mapped store."""

    def __init__(self, local: LocalFeatureStore, most: int, device: torch.device) -> None:
        self._local, self._most, self._device = local, most, device

    def one(self, row: int) -> Tensor:
        """Return the descriptors (n, D) of a photo: unit rows, the highest scores first."""
        return self._read(row).to(self._device)

    def _read(self, row: int) -> Tensor:
        photo = self._local[row]
        best = np.argsort(-photo.scores, kind="stable")[: self._most]
        rows = torch.from_numpy(np.asarray(photo.descriptors[best], np.float32))
        return functional.normalize(rows, dim=1)

    def batch(self, rows: NDArray[np.int64], count: int) -> Photos:
        """Read photos, of which the model may see `count` rows each."""
        photos = [self._read(row) for row in rows.tolist()]
        padded = nn.utils.rnn.pad_sequence(photos, batch_first=True).to(self._device)
        if not padded.shape[1]:  # no photo has a descriptor
            padded = padded.new_zeros(len(photos), 1, self._local.dim)
        counts = torch.tensor([len(photo) for photo in photos], device=padded.device)
        places = torch.arange(padded.shape[1], device=padded.device)
        return Photos(padded, places >= counts[:, None], count)

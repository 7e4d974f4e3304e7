"""Projections of descriptors, fitted to a store: (B, D) → (B, d) of unit length."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.disk.differences import check_same_settings
from landmark.error import UserError

_SOURCE = ("embedder", "whitening")


class Projection(ABC):
    """Base of whitenings and adapters.

    Attributes:
        noun: Its name in messages, with an article.
        meta: How it was fitted, and `embedder` and `whitening` of the store it was fitted to.
    """

    noun: str
    meta: dict[str, Any]

    @abstractmethod
    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map (B, D) to (B, d) of unit length, in float64."""

    @property
    @abstractmethod
    def source_dim(self) -> int:
        """Dimension D of the descriptors that it takes."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimension d of the result."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest of the numbers and `meta`, which stores record as their `whitening`."""

    def check_fits(self, recorded: dict[str, Any], dim: int, subject: str | Path) -> None:
        """Check that it was fitted on descriptors of this kind.

        Args:
            recorded: `embedder` and `whitening` of the descriptors, if known.
            dim: Their dimension.
            subject: Start of the error message.

        Raises:
            UserError: The dimension, the embedder or an earlier projection differs.
        """
        if dim != self.source_dim:
            raise UserError(
                f"{subject} has {dim} dimensions, the {self.noun.partition(' ')[2]} takes "
                f"{self.source_dim}. Fit one on a store of this embedder."
            )
        if recorded.get("embedder") is not None and self.meta.get("embedder") is not None:
            check_same_settings(
                recorded,
                {key: self.meta.get(key) for key in _SOURCE},
                f"{subject} was made",
                f"Fit {self.noun} on a store that was made with the same settings.",
            )

    def summary(self, store: DescriptorStore) -> str:
        """Describe the fit to a store in one line."""
        return f"{len(store):,} photos, {store.dim} → {self.dim}-d"


class Chain(Projection):
    """Projections applied one after the other, such as a whitening and an adapter.

    Its digest is that of the last one, whose `meta` records the digest of the one before: a chain
    gives a store the same settings as its projections applied to the store one by one.

    Args:
        projections: One or more, the first applied first.

    Raises:
        UserError: A projection was not fitted to descriptors of the one before.
    """

    def __init__(self, projections: Sequence[Projection]) -> None:
        self.projections = tuple(projections)
        first, last = self.projections[0], self.projections[-1]
        self.noun, self.meta = first.noun, first.meta
        self._last = last
        for before, after in zip(self.projections, self.projections[1:], strict=False):
            recorded = {"embedder": before.meta.get("embedder"), "whitening": before.digest}
            after.check_fits(recorded, before.dim, f"the result of {before.noun}")

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Map (B, D) to (B, d) of unit length, in float64."""
        for projection in self.projections:
            vectors = projection(vectors)
        return np.asarray(vectors, np.float64)

    @property
    def source_dim(self) -> int:
        """Dimension D of the descriptors that the first one takes."""
        return self.projections[0].source_dim

    @property
    def dim(self) -> int:
        """Dimension d of the result of the last one."""
        return self._last.dim

    @property
    def digest(self) -> str:
        """Digest of the last one."""
        return self._last.digest

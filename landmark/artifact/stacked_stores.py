"""Several descriptor stores read as one, without a copy of them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.stacked_vectors import StackedVectors
from landmark.error import UserError


class StackedStores:
    """Descriptor stores searched as one: the rows of each follow those of the one before.

    They read as one `DescriptorStore` does; their dimensions must be the same.

    Attributes:
        stores: The stores.

    Raises:
        UserError: An id stands in two of them.
    """

    def __init__(self, stores: Sequence[DescriptorStore]) -> None:
        self.stores = list(stores)
        twice = pd.Index(self.ids).duplicated()
        if twice.any():
            row = int(twice.argmax())
            ends = np.cumsum([len(store) for store in self.stores])
            store = self.stores[int(np.searchsorted(ends, row, side="right"))]
            raise UserError(
                f"{store.path}: the id {str(self.ids[row])!r} stands in the gallery twice: "
                "list each store once, and stores of different photos"
            )

    @property
    def path(self) -> str:
        """Where the stores lie."""
        return ", ".join(str(store.path) for store in self.stores)

    @cached_property
    def vectors(self) -> NDArray[np.floating]:
        """(N, D): a `StackedVectors`, which searches and re-rankers read as they do an array."""
        return cast(NDArray[np.floating], StackedVectors([s.vectors for s in self.stores]))

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """Id of each row, (N,) strings."""
        return np.concatenate([store.ids for store in self.stores])

    @cached_property
    def landmark_ids(self) -> NDArray[np.str_] | None:
        """Landmark of each row, (N,) strings, "" where unknown; None where no store has any."""
        landmarks = [store.landmark_ids for store in self.stores]
        if all(known is None for known in landmarks):
            return None
        unknown = [np.zeros(len(store), dtype="U1") for store in self.stores]
        return np.concatenate(
            [u if known is None else known for known, u in zip(landmarks, unknown, strict=True)]
        )

    @property
    def meta(self) -> dict[str, Any]:
        """What all of them record alike, and under `stores` what each does."""
        metas = [store.meta for store in self.stores]
        same = {
            key: value
            for key, value in metas[0].items()
            if all(meta.get(key) == value for meta in metas)
        }
        each = [
            {"path": str(store.path), "rows": len(store), **store.meta} for store in self.stores
        ]
        return {**same, "stores": each}

    @property
    def dim(self) -> int:
        """Dimension D of the descriptors."""
        return self.stores[0].dim

    def __len__(self) -> int:
        return sum(len(store) for store in self.stores)

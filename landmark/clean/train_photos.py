"""The photos to clean: a descriptor store with landmarks and local features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatureStore, ids_digest
from landmark.clean.output import check_ids_for_lists
from landmark.data.image_table import sorted_landmarks
from landmark.disk.digest import digest_of
from landmark.error import UserError
from landmark.processes import notice
from landmark.rerank.stores import Stores


@dataclass(frozen=True, eq=False)
class TrainPhotos:
    """A train store with its landmarks numbered.

    Attributes:
        store: The store.
        names: Distinct landmarks, sorted.
        labels: (N,) int32 number of each photo's landmark, -1 if unknown.
    """

    store: DescriptorStore
    names: NDArray[np.str_]
    labels: NDArray[np.int32]

    @classmethod
    def open(cls, path: str | Path) -> "TrainPhotos":
        """Open a store and check that it can be cleaned.

        Raises:
            UserError: The store is missing, damaged or empty, an id contains a blank or occurs
                twice, or no photo has a landmark.
        """
        store = DescriptorStore.open(path)
        if store.landmark_ids is None or not (store.landmark_ids != "").any():
            raise UserError(
                f"train={path} has no landmark_id to check. Extract photos with known landmarks."
            )
        check_ids_for_lists(store.ids)
        landmarks = pd.Series(store.landmark_ids, dtype="str")
        names = np.array(sorted_landmarks(landmarks[landmarks != ""]))
        labels = pd.Index(names).get_indexer(pd.Index(landmarks)).astype(np.int32)
        if count := int((labels < 0).sum()):
            notice(f"{path}: {count:,} photos have no landmark and are left out")
        return cls(store, names, labels)

    def record(self) -> dict[str, Any]:
        """Return what identifies the photos, their landmarks and their descriptors."""
        return {
            "ids": ids_digest(self.store.rows["id"]),
            "landmarks": digest_of("\0".join(self.names).encode() + self.labels.tobytes()),
            **{key: self.store.meta.get(key) for key in ("embedder", "whitening", "scales")},
        }


def open_test_store(test: str | Path, train: str | Path) -> DescriptorStore:
    """Open the store of a test set, and check that it fits the train store.

    Raises:
        UserError: It is missing, damaged or empty, or of another embedder than the train store.
    """
    return Stores.open(test, train).query


def local_features(store: DescriptorStore, name: str) -> LocalFeatureStore:
    """Open local features and say how many photos have none.

    Raises:
        UserError: The store has no local features of this name, or no photo has any.
    """
    features = store.local(name)
    without = int((features.counts == 0).sum())
    if without == len(features):
        raise UserError(
            f"{features.path}: no photo has any features. Extract them again, from larger photos."
        )
    if without:
        notice(f"{features.path}: {without:,} of {len(features):,} photos have no features")
    return features

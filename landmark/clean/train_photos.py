"""The photos to clean: a descriptor store with landmarks and local features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatureStore, ids_digest
from landmark.artifact.table import check_ids
from landmark.clean.output import check_ids_for_lists
from landmark.data.image_table import sorted_landmarks
from landmark.disk.digest import digest_of
from landmark.error import UserError
from landmark.processes import notice

_OF_EMBEDDER = ("embedder", "whitening")


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
        check_ids(store.rows["id"], path)
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
    store, other = DescriptorStore.open(test), DescriptorStore.open(train)
    if not len(store):
        raise UserError(f"audit={test} has no descriptors. Extract some photos.")
    own = {"dimensions": store.dim, **{key: store.meta.get(key) for key in _OF_EMBEDDER}}
    of_train = {"dimensions": other.dim, **{key: other.meta.get(key) for key in _OF_EMBEDDER}}
    for key, value in own.items():
        # A store that does not record the setting is compatible with any other.
        if None not in (value, of_train[key]) and value != of_train[key]:
            raise UserError(
                f"audit={test} has {key} {value}, but train={train} has {of_train[key]}. Extract "
                "both with one embedder."
            )
    return store


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

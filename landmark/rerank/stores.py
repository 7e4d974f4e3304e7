"""The descriptor stores of a re-ranking, checked for consistency."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import check_comparable
from landmark.artifact.stacked import StackedStores
from landmark.error import UserError
from landmark.processes import notice
from landmark.rerank.retrieval import LocalOfPhotos, Retrieval
from landmark.search.index import Search

MIXED = "Extract both with the same settings, or pass allow_mixed=true."
_SHARED_SETTINGS = ("embedder", "whitening")
_DEFAULT_K = 100


@dataclass(frozen=True, eq=False)
class Stores:
    """Consistent descriptor stores of a re-ranking.

    Attributes:
        query: Store of the queries.
        gallery: Store of the gallery photos, or several stores stacked.
        train: Store of photos with known landmarks. Defaults to None.
        query_local: Local features of the queries, name → sequence in the order of the rows.
        gallery_local: Local features of the gallery photos, likewise.

    Example:
        >>> import tempfile, numpy as np
        >>> folder = tempfile.mkdtemp()
        >>> DescriptorStore.write(f"{folder}/query", ["a", "b"], np.eye(2, dtype=np.float32))
        >>> DescriptorStore.write(f"{folder}/gallery", ["c"], np.eye(2, dtype=np.float32)[:1])
        >>> stores = Stores.open(f"{folder}/query", f"{folder}/gallery")
        >>> print(stores, stores.resolve_k(None))
        2 query, 1 gallery photos, 2-d 1
    """

    query: DescriptorStore
    gallery: DescriptorStore | StackedStores
    train: DescriptorStore | None = None
    query_local: LocalOfPhotos = field(default_factory=dict)
    gallery_local: LocalOfPhotos = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        query: str | Path,
        gallery: str | Path | Sequence[str | Path],
        train: str | Path | None = None,
        allow_mixed: bool = False,
        local: Collection[str] = (),
    ) -> "Stores":
        """Open stores and check that they are consistent.

        Args:
            query: Folder of the query store.
            gallery: Folder of the gallery store, or several folders, whose rows are stacked in this
                order, such as a gallery and its distractors.
            train: Folder of the train store. Defaults to None.
            allow_mixed: Accept different embedders, whitenings and settings of local features.
            local: Names of the local features to open, of the queries and the gallery.

        Raises:
            UserError: A store is missing, damaged or empty, an id occurs twice among the queries
                or in the gallery, the dimensions differ, two stores record different embedders or
                whitenings, train has no landmarks, or local features are missing or were extracted
                with different settings.
        """
        folders = [gallery] if isinstance(gallery, str | Path) else list(gallery)
        if not folders:
            raise UserError("gallery=[] is empty. Pass one or more stores.")
        galleries = [DescriptorStore.open(folder) for folder in folders]
        query_store = DescriptorStore.open(query)
        train_store = DescriptorStore.open(train) if train else None
        stores = [*galleries, query_store, *([train_store] if train_store else [])]
        for number, store in enumerate(stores):
            if len(store) == 0:
                raise UserError(f"{store.path} has no descriptors. Extract some photos.")
            for earlier in stores[:number]:
                _check_same_kind(store, earlier, allow_mixed)
        for store in stores:
            _check_distinct_ids(store)
        if train_store is not None and train_store.landmark_ids is None:
            raise UserError(
                f"train={train} has no landmark_id to learn from. Pass photos with known landmarks."
            )
        stacked = galleries[0] if len(galleries) == 1 else StackedStores(galleries)
        query_local, gallery_local = (
            {name: store.local(name) for name in local} for store in (query_store, stacked)
        )
        for name in () if allow_mixed else local:
            of_query, of_gallery = query_local[name].settings, gallery_local[name].settings
            check_comparable(name, query_store.path, of_query, stacked.path, of_gallery, MIXED)
        return cls(
            query_store,
            stacked,
            train_store,
            # Not registered as sequences, but read by row and length alone.
            cast(LocalOfPhotos, query_local),
            cast(LocalOfPhotos, gallery_local),
        )

    @property
    def by_name(self) -> dict[str, DescriptorStore | StackedStores]:
        """Name on the command line → store."""
        train = {} if self.train is None else {"train": self.train}
        return {"query": self.query, "gallery": self.gallery, **train}

    def resolve_k(self, k: int | None, whole: bool = False, deepest: int = 0) -> int:
        """Return the number of results per query: k, or 100 (at most N) if k is None.

        Args:
            k: Results per query.
            whole: Rank all N photos if k is None.
            deepest: Results that a chosen metric counts; more than 100 if k is None.

        Raises:
            UserError: k is larger than the gallery, or smaller than `deepest`.
        """
        photos = len(self.gallery)
        if k is not None and k > photos:
            raise UserError(
                f"k={k} is more than the {photos:,} photos of the gallery. Pass k={photos} or less."
            )
        needed = min(deepest, photos)
        if k is not None and k < needed:
            raise UserError(
                f"k={k} is too few for map_at or recall_at {deepest}. Pass k={needed}, or leave "
                "out k."
            )
        if k is not None:
            return k
        return photos if whole else min(max(_DEFAULT_K, needed), photos)

    @cached_property
    def own_rows(self) -> NDArray[np.intp]:
        """Gallery row of the photo with the query's id, (Q,); -1 if the gallery lacks it."""
        return pd.Index(self.gallery.ids).get_indexer(pd.Index(self.query.ids))

    @cached_property
    def own_train_rows(self) -> NDArray[np.intp]:
        """Train row of the photo with the query's id, (Q,); -1 if train lacks it."""
        if self.train is None:
            return np.full(len(self.query), -1)
        return pd.Index(self.train.ids).get_indexer(pd.Index(self.query.ids))

    def own_rows_to_exclude(self, allow_self: bool) -> NDArray[np.intp] | None:
        """Print how many queries are in the gallery or in train; return the rows to exclude.

        Args:
            allow_self: Exclude none.
        """
        for name, rows in (("gallery", self.own_rows), ("train store", self.own_train_rows)):
            if (rows >= 0).any():
                notice(
                    f"{(rows >= 0).sum():,} of {len(rows):,} queries are also in the {name} under "
                    "the same id. They "
                    + (
                        "count as their own answers (allow_self=true)."
                        if allow_self
                        else "are excluded from their own results; allow_self=true keeps them."
                    )
                )
        return None if allow_self or (self.own_rows < 0).all() else self.own_rows

    def search(self, search: Search, k: int, allow_self: bool = False) -> Retrieval:
        """Index the gallery and search it for the top k of each query.

        Args:
            search: Search that builds the index.
            k: Results per query.
            allow_self: Keep the gallery photo with the query's own id among its results, and let
                the train photo with its id vote on it.
        """
        train = self.train
        return Retrieval.from_search(
            self.query.vectors,
            self.gallery.vectors,
            k,
            search,
            None if train is None else train.vectors,
            None if train is None else train.landmark_ids,
            query_ids=self.query.ids,
            gallery_ids=self.gallery.ids,
            own_rows=None if allow_self else self.own_rows,
            own_train_rows=None if allow_self else self.own_train_rows,
            query_local=self.query_local,
            gallery_local=self.gallery_local,
        )

    def __str__(self) -> str:
        counts = ", ".join(f"{len(store):,} {name}" for name, store in self.by_name.items())
        return f"{counts} photos, {self.gallery.dim}-d"


def _check_distinct_ids(store: DescriptorStore) -> None:
    duplicated = pd.Index(store.ids).duplicated()
    if duplicated.any():
        raise UserError(
            f"{store.path}: duplicate id {str(store.ids[duplicated.argmax()])!r}. Re-extract with "
            "unique ids."
        )


def _check_same_kind(store: DescriptorStore, earlier: DescriptorStore, allow_mixed: bool) -> None:
    if store.dim != earlier.dim:
        raise UserError(
            f"{store.path} has {store.dim} dimensions and {earlier.path} {earlier.dim}. Extract "
            "both with one embedder."
        )
    for key in () if allow_mixed else _SHARED_SETTINGS:
        own, other = store.meta.get(key), earlier.meta.get(key)
        # A store that does not record the setting is compatible with any other.
        if own is not None and other is not None and own != other:
            raise UserError(
                f"{store.path} has {key} {own}, and {earlier.path} has {other}. {MIXED}"
            )

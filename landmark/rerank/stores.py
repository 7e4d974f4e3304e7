"""The descriptor stores of a re-ranking, checked against one another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.stacked import StackedStores
from landmark.error import UserError
from landmark.rerank.retrieval import Retrieval, Search

_SAME = ("embedder", "whitening")


@dataclass(frozen=True, eq=False)
class Stores:
    """Descriptor stores that fit together.

    Attributes:
        query: Of the queries.
        gallery: Of the photos searched, one store or several as one.
        train: Of photos whose landmarks are known, where there are any.
    """

    query: DescriptorStore
    gallery: DescriptorStore | StackedStores
    train: DescriptorStore | None = None

    @classmethod
    def open(
        cls,
        query: str | Path,
        gallery: str | Path | Sequence[str | Path],
        train: str | Path | None = None,
        allow_mixed: bool = False,
    ) -> "Stores":
        """Open stores and hold them against the gallery's.

        Args:
            query: Folder of the queries' store.
            gallery: Folder of the gallery's, or several: their rows follow one another, as those of
                distractors follow a set's own.
            train: Folder of the train photos'; none: no train photos.
            allow_mixed: Do not ask that they come from one embedder and one whitening.

        Raises:
            UserError: A store is missing, broken or empty, an id stands twice among the queries
                or in the gallery, the dimensions differ, two stores say that they come from
                different embedders or whitenings, or train has no landmarks.
        """
        folders = [gallery] if isinstance(gallery, str | Path) else list(gallery)
        if not folders:
            raise UserError("gallery=[]: name one store or more")
        searched = [DescriptorStore.open(folder) for folder in folders]
        asked = DescriptorStore.open(query)
        known = DescriptorStore.open(train) if train else None
        for store in [*searched, asked, *([known] if known else [])]:
            if len(store) == 0:
                raise UserError(f"{store.path}: holds no descriptors")
            _check_alike(store, searched[0], allow_mixed)
        for store in (asked, *searched):
            _check_distinct(store)
        stores = cls(asked, searched[0] if len(searched) == 1 else StackedStores(searched), known)
        if stores.train is not None and stores.train.landmark_ids is None:
            raise UserError(f"train={train}: has no landmark_id: nothing to learn from it")
        return stores

    @property
    def by_name(self) -> dict[str, DescriptorStore | StackedStores]:
        """Name on the command line → store."""
        train = {} if self.train is None else {"train": self.train}
        return {"query": self.query, "gallery": self.gallery, **train}

    def results(self, k: int | None) -> int:
        """The results to keep a query: k, or where it is None 100, fewer in a smaller gallery.

        Raises:
            UserError: The gallery is smaller than k.
        """
        if k is not None and k > len(self.gallery):
            raise UserError(
                f"k={k} is more than the {len(self.gallery):,} photos of the gallery: choose "
                f"k={len(self.gallery)} or less"
            )
        return min(100, len(self.gallery)) if k is None else k

    def search(self, search: Search, k: int) -> Retrieval:
        """Search the gallery for the k best of each query; the train photos come along."""
        train, landmarks = None, None
        if self.train is not None:
            train, landmarks = self.train.vectors, self.train.landmark_ids
        return Retrieval.from_search(
            self.query.vectors, self.gallery.vectors, k, search, train, landmarks
        )

    def __str__(self) -> str:
        counts = ", ".join(f"{len(store):,} {name}" for name, store in self.by_name.items())
        return f"{counts} photos, {self.gallery.dim}-d"


def _check_distinct(store: DescriptorStore) -> None:
    twice = pd.Index(store.ids).duplicated()
    if twice.any():
        raise UserError(
            f"{store.path}: the id {str(store.ids[twice.argmax()])!r} stands there twice: extract "
            "it again from photos of different ids"
        )


def _check_alike(store: DescriptorStore, gallery: DescriptorStore, allow_mixed: bool) -> None:
    if store.dim != gallery.dim:
        raise UserError(
            f"{store.path}: has {store.dim} dimensions and {gallery.path} {gallery.dim}: "
            "extract both with one embedder"
        )
    for key in () if allow_mixed else _SAME:
        own, other = store.meta.get(key), gallery.meta.get(key)
        # A store that does not say what it comes from is taken at its word.
        if own is not None and other is not None and own != other:
            raise UserError(
                f"{store.path}: {key} is {own}, of {gallery.path} it is {other}: "
                "extract both alike, or go on with allow_mixed=true"
            )

"""The descriptor stores of a re-ranking, checked against one another."""

from dataclasses import dataclass
from pathlib import Path

from landmark.artifact.descriptors import DescriptorStore
from landmark.mistake import UserMistake
from landmark.rerank.retrieval import Retrieval, Search

_SAME = ("embedder", "whitening")


@dataclass(frozen=True, eq=False)
class Stores:
    """Descriptor stores that fit together.

    Attributes:
        query: Of the queries.
        gallery: Of the photos searched.
        train: Of photos whose landmarks are known, where there are any.
    """

    query: DescriptorStore
    gallery: DescriptorStore
    train: DescriptorStore | None = None

    @classmethod
    def open(
        cls,
        query: str | Path,
        gallery: str | Path,
        train: str | Path | None = None,
        allow_mixed: bool = False,
    ) -> "Stores":
        """Open stores and hold them against the gallery's.

        Args:
            query: Folder of the queries' store.
            gallery: Folder of the gallery's.
            train: Folder of the train photos'; none: no train photos.
            allow_mixed: Do not ask that they come from one embedder and one whitening.

        Raises:
            UserMistake: A store is missing, broken or empty, the dimensions differ, two stores say
                that they come from different embedders or whitenings, or train has no landmarks.
        """
        stores = cls(
            DescriptorStore.open(query),
            DescriptorStore.open(gallery),
            DescriptorStore.open(train) if train else None,
        )
        for store in stores.by_name.values():
            if len(store) == 0:
                raise UserMistake(f"{store.path}: holds no descriptors")
            _check_alike(store, stores.gallery, allow_mixed)
        if stores.train is not None and stores.train.landmark_ids is None:
            raise UserMistake(f"train={train}: has no landmark_id: nothing to learn from it")
        return stores

    @property
    def by_name(self) -> dict[str, DescriptorStore]:
        """Name on the command line → store."""
        train = {} if self.train is None else {"train": self.train}
        return {"query": self.query, "gallery": self.gallery, **train}

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


def _check_alike(store: DescriptorStore, gallery: DescriptorStore, allow_mixed: bool) -> None:
    if store.dim != gallery.dim:
        raise UserMistake(
            f"{store.path}: has {store.dim} dimensions and {gallery.path} {gallery.dim}: "
            "extract both with one embedder"
        )
    for key in () if allow_mixed else _SAME:
        own, other = store.meta.get(key), gallery.meta.get(key)
        # A store that does not say what it comes from is taken at its word.
        if own is not None and other is not None and own != other:
            raise UserMistake(
                f"{store.path}: {key} is {own}, of {gallery.path} it is {other}: "
                "extract both alike, or go on with allow_mixed=true"
            )

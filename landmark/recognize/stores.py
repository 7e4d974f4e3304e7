"""The descriptor stores of a recognition, checked for consistency."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import ids_digest
from landmark.error import UserError
from landmark.processes import notice
from landmark.rerank.stores import Stores


@dataclass(frozen=True, eq=False)
class RecognitionStores:
    """Consistent stores of a recognition.

    Attributes:
        query: Photos to recognize.
        train: Photos with known landmarks.
        distractors: Photos that show no landmark. None without any.
        names: (L,) landmark ids that can be predicted.
        codes: (N,) position of each train photo's landmark in `names`; -1 for photos that do not
            vote.
        own_rows: (Q,) row of each query in train, -1 if it is not there.
        own_distractor_rows: (Q,) row of each query among the distractors, likewise.

    Example:
        >>> import tempfile
        >>> folder, vectors = tempfile.mkdtemp(), np.eye(2, dtype=np.float32)
        >>> DescriptorStore.write(f"{folder}/train", ["a", "b"], vectors, ["arch", "bay"])
        >>> DescriptorStore.write(f"{folder}/query", ["c", "d"], vectors, ["bay", "tower"])
        >>> stores = RecognitionStores.open(f"{folder}/query", f"{folder}/train")
        >>> print(stores, stores.names.tolist(), stores.truth.tolist())
        2 query, 2 train photos, 2-d ['arch', 'bay'] ['bay', '']
    """

    query: DescriptorStore
    train: DescriptorStore
    distractors: DescriptorStore | None
    names: NDArray[np.str_]
    codes: NDArray[np.int64]
    own_rows: NDArray[np.intp]
    own_distractor_rows: NDArray[np.intp]

    @classmethod
    def open(
        cls,
        query: str | Path,
        train: str | Path,
        distractors: str | Path | None = None,
        allow_mixed: bool = False,
        hold_out: float = 0.0,
        seed: int = 0,
    ) -> "RecognitionStores":
        """Open stores and check that they are consistent.

        Args:
            query: Folder of the queries.
            train: Folder of the train photos.
            distractors: Folder of the distractors. Defaults to None.
            allow_mixed: Accept different embedders and whitenings.
            hold_out: Share of the landmarks whose photos do not vote, drawn at random.
            seed: Of the draw.

        Raises:
            UserError: As `Stores.open`, no train photo has a landmark, or `hold_out` leaves none.
        """
        stores = Stores.open(query, distractors or train, train, allow_mixed)
        landmark_ids = stores.train.landmark_ids if stores.train else None
        assert stores.train is not None  # `Stores.open` checks both
        assert landmark_ids is not None
        assert isinstance(stores.gallery, DescriptorStore)
        names, codes = np.unique(landmark_ids, return_inverse=True)
        codes = codes.astype(np.int64)
        if names[0] == "":  # photos without a landmark do not vote
            names, codes = names[1:], codes - 1
        if not len(names):
            raise UserError(
                f"train={train}: no photo has a landmark. Pass photos with known landmarks."
            )
        if hold_out:
            names, codes = _without_landmarks(names, codes, hold_out, seed)
        return cls(
            stores.query,
            stores.train,
            stores.gallery if distractors else None,
            names,
            codes,
            stores.own_train_rows,
            stores.own_rows if distractors else np.full(len(stores.query), -1),
        )

    @cached_property
    def truth(self) -> NDArray[np.str_] | None:
        """Landmark of each query (Q,), "" for none or one that cannot be predicted.

        None if the queries have no landmarks.
        """
        landmark_ids = self.query.landmark_ids
        if landmark_ids is None:
            return None
        return np.where(np.isin(landmark_ids, self.names), landmark_ids, "")

    @property
    def by_name(self) -> dict[str, DescriptorStore]:
        """Name on the command line → store."""
        distractors = {} if self.distractors is None else {"distractors": self.distractors}
        return {"query": self.query, "train": self.train, **distractors}

    def check_k(self, k: int) -> None:
        """Check that there are enough voters.

        Raises:
            UserError: k is larger than the number of train photos that vote.
        """
        voters = int((self.codes >= 0).sum())
        if k > voters:
            raise UserError(
                f"k={k} is more than the {voters:,} photos of train that vote. Pass k={voters} or "
                "less."
            )

    def record(self) -> dict[str, Any]:
        """Return what a calibration must share with a recognition: embedder and distractors."""
        kept = {key: self.train.meta.get(key) for key in ("embedder", "whitening")}
        ids = None if self.distractors is None else ids_digest(self.distractors.rows["id"])
        return {**kept, "distractors": ids}

    def own_rows_to_exclude(self, allow_self: bool) -> NDArray[np.intp] | None:
        """Say how many queries are in train; return their rows, which do not vote.

        Args:
            allow_self: Exclude none.
        """
        own = int((self.own_rows >= 0).sum())
        if own:
            notice(
                f"{own:,} of {len(self.own_rows):,} queries are also in train under the same id. "
                + (
                    "They vote for themselves (allow_self=true)."
                    if allow_self
                    else "Their own photos do not vote; allow_self=true lets them."
                )
            )
        return None if allow_self or not own else self.own_rows

    def __str__(self) -> str:
        counts = ", ".join(f"{len(store):,} {name}" for name, store in self.by_name.items())
        return f"{counts} photos, {self.train.dim}-d"


def _without_landmarks(
    names: NDArray[np.str_], codes: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Leave out a share of the landmarks, drawn at random."""
    left_out = round(share * len(names))
    if left_out == len(names):
        raise UserError(
            f"hold_out={share:g} leaves none of the {len(names):,} landmarks. Pass a smaller share."
        )
    drawn = np.random.default_rng(seed).permutation(len(names))[:left_out]
    is_kept = np.ones(len(names), bool)
    is_kept[drawn] = False
    new_codes = np.where(is_kept, np.cumsum(is_kept) - 1, -1)
    return names[is_kept], np.where(codes >= 0, new_codes[np.maximum(codes, 0)], -1)

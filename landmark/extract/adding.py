"""Adding to a store: which photos of a table it lacks, and what it holds afterwards."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.description import IDS
from landmark.artifact.descriptors import DescriptorStore
from landmark.data.image_table import ImageTable
from landmark.error import UserError
from landmark.extract.join import tables_of


@dataclass(frozen=True)
class Addition:
    """The photos of a table that a store lacks.

    Attributes:
        store: the store.
        rows: of the table, in its order, (M,).
        gone: photos of the store that are not in the table; they stay.
    """

    store: DescriptorStore
    rows: NDArray[np.int64]
    gone: int

    @classmethod
    def of(cls, table: ImageTable, store: DescriptorStore) -> "Addition":
        """Compares ids and landmarks.

        Raises:
            UserError: a photo has another landmark in the table than in the store.
        """
        places = pd.Index(store.ids).get_indexer(pd.Index(table.rows["id"]))
        _refuse_other_landmarks(table, store, places)
        present = int((places >= 0).sum())
        return cls(store, np.flatnonzero(places < 0), len(store) - present)

    def tables(self, digest: str) -> list[str]:
        """Digests of all tables that the photos come from."""
        return [*tables_of(self.store), digest]

    def before(self, added: pd.DataFrame, root: str) -> pd.DataFrame:
        """The rows of ids.parquet: those of the store, then `added`, whose photos lie below `root`.

        The store's photos keep their paths where these start at the same root.
        """
        rows = pd.DataFrame({"id": pd.Series(self.store.ids, dtype="str")})
        landmarks = self.store.landmark_ids
        if landmarks is not None or "landmark_id" in added:
            rows["landmark_id"] = pd.Series(landmarks, index=rows.index, dtype="str")
        if self.store.meta.get("root") == root:
            stored = pd.read_parquet(self.store.path / IDS)
            rows = rows.join(stored[stored.columns.difference(["id", "landmark_id"], sort=False)])
        return pd.concat([rows, added], ignore_index=True)

    def skipped(self, left_out: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
        """Photos that could not be read, then or now, and are none of `rows`."""
        both = pd.concat([self.store.skipped, left_out], ignore_index=True)
        return both[~both["id"].isin(rows["id"])].drop_duplicates("id", keep="last")


def _refuse_other_landmarks(
    table: ImageTable, store: DescriptorStore, places: NDArray[np.int64]
) -> None:
    theirs, ours = table.landmark_ids, store.landmark_ids
    if theirs is None or ours is None:
        return
    shared = np.flatnonzero(places >= 0)
    stored = ours[places[shared]]
    wanted = pd.Series(theirs[shared]).fillna("").to_numpy(dtype=str)
    differs = (stored != wanted) & (stored != "") & (wanted != "")
    if differs.any():
        at = int(differs.argmax())
        raise UserError(
            f"{store.path}: photo {table.rows['id'].iloc[shared[at]]!r} has landmark "
            f"{stored[at]} there and {wanted[at]} in the table ({int(differs.sum()):,} such photos "
            "in all); overwrite=true begins anew"
        )

"""The splits of a run's photos: RUN/splits.parquet, which later commands on its data use.

The table has one row per photo: `id`, `landmark_id` (if known), `split` ("train", "query",
"gallery" or missing) and `held_out` ("query" or "gallery" for a train photo that the run held out
to validate with, "excluded" for one that data.exclude left out, otherwise missing). Sets with
published queries and gallery have only their train photos in it. The metadata of the file records
the folder of the photos.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from landmark.artifact.photo_paths import arrow_in_one_form
from landmark.artifact.table import SPLITS, check_values
from landmark.disk.atomic import atomic_file
from landmark.error import UserError

SPLIT_TABLE = "splits.parquet"
Kind = Literal["new", "gone", "moved", "relabelled", "reassigned"]
_COLUMNS = ["id", "landmark_id", "split", "held_out"]


def write_split_table(file: Path, photos: pd.DataFrame, root: Path) -> None:
    """Write the splits of a run.

    Args:
        file: Path of the table.
        photos: `id`, `landmark_id`, `split` and `held_out` of each photo.
        root: Folder of the photos.
    """
    # A category takes one byte per photo in memory.
    rows = photos[_COLUMNS].astype({"split": "category", "held_out": "category"})
    rows.attrs = {"root": str(root.resolve())}
    with atomic_file(file) as temporary:
        rows.to_parquet(temporary, index=False, compression="zstd")


@dataclass(frozen=True)
class Change:
    """One kind of difference between the photos of a run and those of its data now.

    Attributes:
        kind: "new", "gone", "moved" (same file name in another folder, hence another id),
            "relabelled" (another landmark) or "reassigned" (another split in the data's own list).
        count: Number of such photos.
        example: One of them.
        splits: Number of new photos by split.
    """

    kind: Kind
    count: int
    example: str
    splits: Mapping[str, int] = field(default_factory=dict)

    def short(self) -> str:
        """Return the change for a list: "2 new, such as a/1.jpg"."""
        words = {
            "relabelled": "with another landmark",
            "reassigned": "with another split",
        }
        return f"{self.count:,} {words.get(self.kind, self.kind)}, such as {self.example}"

    def line(self) -> str:
        """Return the change as a sentence."""
        photos, plural = (f"{self.count:,} photos", True) if self.count != 1 else ("1 photo", False)
        parts = ", ".join(f"{count:,} {name}" for name, count in self.splits.items())
        keep = "keep their splits" if plural else "keeps its split"
        return {
            "new": f"{photos} {'are' if plural else 'is'} new since training: {parts} "
            f"(such as {self.example}).",
            "gone": f"{photos} of the training {'are' if plural else 'is'} gone "
            f"(such as {self.example}).",
            "moved": f"{photos} {'have' if plural else 'has'} moved since training "
            f"(such as {self.example}) and {keep}.",
            "relabelled": f"{photos} {'have' if plural else 'has'} another landmark than in "
            f"training (such as {self.example}) and {keep}.",
            "reassigned": f"{photos} {'have' if plural else 'has'} another split than in training "
            f"(such as {self.example}) and {keep} of training.",
        }[self.kind]


class RunSplits:
    """The splits of a run's photos, from its splits.parquet.

    Args:
        file: Path of the table.

    Attributes:
        rows: `id`, `landmark_id`, `split` and `held_out` of each photo.
        root: Folder of the photos when the run was trained.

    Raises:
        UserError: The file is not a table of splits.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            rows = pd.read_parquet(file)
            self.root = Path(rows.attrs["root"])
            self.rows = rows[_COLUMNS]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{file} is not a table of splits ({reason}). Restore it, or delete it to "
                "recompute the splits."
            ) from error
        check_values(self.rows["split"].dropna(), SPLITS, file)

    def is_of(self, root: Path) -> bool:
        """Whether `root` has the run's photos: the same folder, or the one that replaced it."""
        root = root.resolve()
        return root == self.root or (root.name == self.root.name and not self.root.exists())

    @cached_property
    def landmarks(self) -> pd.Series:
        """The distinct landmarks of the photos."""
        return self.rows["landmark_id"].dropna().drop_duplicates()

    @cached_property
    def held_out_landmarks(self) -> pd.Series:
        """The distinct landmarks of which the run held out photos."""
        is_held_out = self.rows["held_out"].isin(["query", "gallery"])
        return self.rows.loc[is_held_out, "landmark_id"].drop_duplicates()

    @cached_property
    def _ids(self) -> pa.Array:
        return arrow_in_one_form(self.rows["id"])

    def compare(self, photos: pd.DataFrame) -> tuple[NDArray[np.int64], list[Change]]:
        """Compare the photos of the data with those of the run.

        A file that has moved to another folder keeps its name: it is the run's photo. Where
        several photos of one name are gone, it is one of those that were trained on, if any.

        Args:
            photos: All photos of the data, with `id` and, if known, `landmark_id`.

        Returns:
            The row of each photo in the table (N,), -1 for new photos; and what has changed, except
            for new photos.
        """
        ids = arrow_in_one_form(photos["id"])
        if ids.equals(self._ids):
            positions = np.arange(len(ids))
        else:
            positions = pc.index_in(ids, value_set=self._ids).fill_null(-1).to_numpy()
            positions = positions.astype(np.int64)
        changes = self._relabelled(photos, positions)
        is_gone = np.ones(len(self.rows), bool)
        is_gone[positions[positions >= 0]] = False
        gone, new = np.flatnonzero(is_gone), np.flatnonzero(positions < 0)
        if len(gone) and len(new):
            positions[new] = self._same_name(photos["id"].iloc[new], gone)
            moved = new[positions[new] >= 0]
            gone = np.setdiff1d(gone, positions[moved])
            changes += self._changes("moved", photos, "id", moved, positions[moved])
        if len(gone):
            changes.append(Change("gone", len(gone), str(self.rows["id"].iloc[gone[0]])))
        return positions, changes

    def _same_name(self, ids: pd.Series, gone: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the gone row with the file name of each new id (M,), -1 without one."""
        rows = self.rows.iloc[gone]
        is_trained = ((rows["split"] == "train") & rows["held_out"].isna()).to_numpy()
        order = gone[np.argsort(~is_trained, kind="stable")]
        names = pd.Index([name.rpartition("/")[2] for name in self.rows["id"].iloc[order]])
        is_first = ~names.duplicated()
        found = names[is_first].get_indexer([name.rpartition("/")[2] for name in ids])
        return np.where(found >= 0, order[is_first][found], -1)

    def _relabelled(self, photos: pd.DataFrame, positions: NDArray[np.int64]) -> list[Change]:
        if "landmark_id" not in photos:
            return []
        known = np.flatnonzero(positions >= 0)
        now = arrow_in_one_form(photos["landmark_id"].iloc[known])
        before = arrow_in_one_form(self.rows["landmark_id"].iloc[positions[known]])
        same = pc.equal(pc.fill_null(now, ""), pc.fill_null(before, ""))
        rows = known[~same.to_numpy(zero_copy_only=False)]
        return self._changes("relabelled", photos, "landmark_id", rows, positions[rows])

    def reassigned(self, photos: pd.DataFrame, positions: NDArray[np.int64]) -> list[Change]:
        """Return the change of known photos whose `split` differs from the run's."""
        known = np.flatnonzero(positions >= 0)
        before = self.rows["split"].to_numpy(object)[positions[known]]
        now = photos["split"].to_numpy(object)[known]
        rows = known[(now != before) & ~(pd.isna(now) & pd.isna(before))]
        return self._changes("reassigned", photos, "split", rows, positions[rows])

    def _changes(
        self,
        kind: Kind,
        photos: pd.DataFrame,
        column: str,
        rows: NDArray[np.int64],
        run_rows: NDArray[np.int64],
    ) -> list[Change]:
        """Return the change of the values of a column in `rows`, or none."""
        if not len(rows):
            return []
        before, now = self.rows[column].iloc[run_rows[0]], photos[column].iloc[rows[0]]
        photo = "" if column == "id" else f"{self.rows['id'].iloc[run_rows[0]]}: "
        return [Change(kind, len(rows), f"{photo}{before}, now {now}")]

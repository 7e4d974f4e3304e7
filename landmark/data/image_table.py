"""The image table: which photos there are, where they lie, what they show."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.data.bad_images import reason_of
from landmark.disk.digest import digest_of_blocks
from landmark.error import UserError

if TYPE_CHECKING:  # tables are read without torch
    from landmark.image.format import ImageFormat

BOX_COLUMNS = ("box_left", "box_top", "box_right", "box_bottom")


def _nothing_skipped() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=str) for name in ("id", "path", "reason")})


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTable:
    """An immutable table of photos.

    Attributes:
        root: folder below which the photos lie.
        rows: one row a photo. Columns: `id` (unique), `path` (below the root, with slashes);
            where known `landmark_id`, `split` ("train", "query", "gallery"), `width` and `height`
            (pixels of the upright photo, or of its box where it has one), `box_left`, `box_top`,
            `box_right`, `box_bottom` (the part to look at, missing values: all of the photo).
        ground_truth: for each query the gallery rows that are "easy", "hard" and "junk".
        bad_image: what becomes of a photo that cannot be used, "error" or "skip".
        skipped: photos that `with_sizes` took out: `id`, `path`, `reason`.
    """

    root: Path
    rows: pd.DataFrame
    ground_truth: Sequence[Mapping[str, Any]] | None = None
    bad_image: str = "error"
    skipped: pd.DataFrame = dataclasses.field(default_factory=_nothing_skipped)

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, name: str) -> "ImageTable":
        """Return the photos of one split; a table without `split` has none."""
        if "split" not in self.rows:
            return dataclasses.replace(self, rows=self.rows.iloc[:0])
        chosen = self.rows[self.rows["split"] == name].reset_index(drop=True)
        return dataclasses.replace(self, rows=chosen)

    @cached_property
    def landmarks(self) -> list[str]:
        """The distinct landmark ids: by value where all are whole numbers, else by name."""
        if "landmark_id" not in self.rows:
            return []
        return sorted_landmarks(self.rows["landmark_id"])

    @property
    def landmark_ids(self) -> NDArray[np.object_] | None:
        """Landmark of each photo (N,), None for those that have none; None without the column."""
        if "landmark_id" not in self.rows:
            return None
        return self.rows["landmark_id"].to_numpy(dtype=object, na_value=None)

    @cached_property
    def digest(self) -> str:
        """A short hash of the rows: equal tables have equal digests."""
        return digest_of_table(self.rows)

    def with_sizes(self, cache: str | Path | None = None) -> "ImageTable":
        """Return the table with `width` and `height` in every row, read from the files' headers.

        Photos whose header cannot be read are taken out where `bad_image` is "skip".

        Args:
            cache: folder of remembered sizes; none: $LANDMARK_CACHE, else ~/.cache/landmark.

        Raises:
            UserError: a photo is missing or no image; or, with "skip", all are.
        """
        from landmark.data.size_cache import photo_sizes

        known = np.zeros((len(self), 2))
        if {"width", "height"} <= set(self.rows.columns):
            known = self.rows[["width", "height"]].to_numpy(np.float64, na_value=0)
        if np.all(known > 0):
            return self
        missing = np.flatnonzero(np.any(known <= 0, axis=1))
        sizes, reasons = photo_sizes(self.root, self.rows["path"].iloc[missing], cache)
        if reasons and self.bad_image == "error":
            raise UserError(reasons[min(reasons)])
        known[missing] = sizes
        boxes = self.boxes
        if boxes is not None:
            boxed = missing[~np.isnan(boxes[missing]).any(axis=1)]
            sides = np.rint(boxes[boxed, 2:] - boxes[boxed, :2])
            known[boxed] = np.clip(sides, 1, known[boxed])
        widths, heights = known.astype(np.int64).T
        rows = self.rows.assign(width=widths, height=heights)
        bad = {int(missing[place]): reason for place, reason in reasons.items()}
        return dataclasses.replace(self, rows=rows)._without(bad)

    def _without(self, reasons: Mapping[int, str]) -> "ImageTable":
        """The table without the rows of `reasons`, which are listed in `skipped`."""
        if not reasons:
            return self
        out = sorted(reasons)
        if len(out) == len(self):
            raise UserError(f"{reasons[out[0]]} (and so are all {len(self):,} photos)")
        taken = self.rows.iloc[out][["id", "path"]]
        taken["reason"] = [
            reason_of(reasons[row], f"{self.root}/{path}")
            for row, path in zip(out, taken["path"], strict=True)
        ]
        rows = self.rows.drop(index=self.rows.index[out]).reset_index(drop=True)
        skipped = pd.concat([self.skipped, taken], ignore_index=True)
        return dataclasses.replace(self, rows=rows, skipped=skipped)

    def groups(self, image_format: "ImageFormat") -> NDArray[np.int64]:
        """Return each photo's aspect group (N,); sizes are read only where groups differ.

        Raises:
            ValueError: photos would have to be skipped: call `with_sizes` first, which does it.
        """
        if image_format.is_uniform:
            return np.zeros(len(self), np.int64)
        rows = self.with_sizes().rows
        if len(rows) != len(self):
            raise ValueError("some photos must be skipped: call with_sizes first")
        return image_format.groups(rows["width"].to_numpy(), rows["height"].to_numpy())

    @property
    def boxes(self) -> NDArray[np.float64] | None:
        """(N, 4) left, top, right, bottom in pixels, NaN where all of the photo counts."""
        if not set(BOX_COLUMNS) <= set(self.rows.columns):
            return None
        return self.rows[list(BOX_COLUMNS)].to_numpy(np.float64, na_value=np.nan)


def digest_of_table(frame: pd.DataFrame) -> str:
    """Digest of the column names and all values, in their order."""
    names = json.dumps([str(name) for name in frame.columns]).encode()
    columns = (frame[name].to_numpy(dtype=object, na_value=None) for name in frame.columns)
    hashes = (pd.util.hash_array(column).tobytes() for column in columns)
    return digest_of_blocks([names, *hashes])


def sorted_landmarks(landmark_ids: pd.Series) -> list[str]:
    """Return the distinct ids: by value where all are whole numbers, else by name."""
    distinct = [str(landmark) for landmark in landmark_ids.dropna().unique()]
    if all(landmark.isascii() and landmark.isdigit() for landmark in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)

"""The image table: ids, paths, landmarks, splits and sizes of photos."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.data.bad_images import BadImage, reason_of
from landmark.disk.digest import digest_of_blocks
from landmark.error import UserError

if TYPE_CHECKING:  # tables are read without torch
    from landmark.image.format import ImageFormat

BOX_COLUMNS = ("box_left", "box_top", "box_right", "box_bottom")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTable:
    """An immutable table of photos.

    Attributes:
        root: Folder that contains the photos.
        rows: One row per photo. Columns: `id` (unique), `path` (relative to the root, with
            slashes); if known `landmark_id`, `split` ("train", "query", "gallery"), `width` and
            `height` (pixels of the upright photo, or of its box if it has one), `box_left`,
            `box_top`, `box_right`, `box_bottom` (the region to use; missing values mean the
            complete photo).
        ground_truth: Gallery rows of each query that are "easy", "hard" and "junk".
        bad_image: What to do with a photo that cannot be used, "error" or "skip".
        skipped: Photos that `with_sizes` removed: `id`, `path`, `reason`.
    """

    root: Path
    rows: pd.DataFrame
    ground_truth: Sequence[Mapping[str, Any]] | None = None
    bad_image: BadImage = "error"
    skipped: pd.DataFrame = dataclasses.field(
        default_factory=lambda: pd.DataFrame(columns=["id", "path", "reason"], dtype=str)
    )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def landmarks(self) -> list[str]:
        """The distinct landmark ids, in the order of `sorted_landmarks`."""
        return sorted_landmarks(self.rows["landmark_id"]) if "landmark_id" in self.rows else []

    @property
    def landmark_ids(self) -> NDArray[np.object_] | None:
        """Landmarks of the photos (N,), None if unknown; None without the column."""
        if "landmark_id" not in self.rows:
            return None
        return self.rows["landmark_id"].to_numpy(dtype=object, na_value=None)

    @property
    def boxes(self) -> NDArray[np.float64] | None:
        """(N, 4) left, top, right, bottom in pixels, NaN for complete photos; None without any."""
        if not set(BOX_COLUMNS) <= set(self.rows.columns):
            return None
        return self.rows[list(BOX_COLUMNS)].to_numpy(np.float64, na_value=np.nan)

    @cached_property
    def digest(self) -> str:
        """Digest of the rows: equal tables have equal digests."""
        return digest_of_table(self.rows)

    def with_sizes(self, cache: str | Path | None = None) -> "ImageTable":
        """Return a table with `width` and `height` in every row, read from the files' headers.

        Photos whose header cannot be read are removed if `bad_image` is "skip".

        Args:
            cache: Folder of cached sizes. Defaults to $LANDMARK_CACHE, else ~/.cache/landmark.

        Raises:
            UserError: A photo is missing or is not an image; with "skip": all photos are.
        """
        from landmark.data.size_cache import photo_sizes

        sizes = np.zeros((len(self), 2))
        if {"width", "height"} <= set(self.rows.columns):
            sizes = self.rows[["width", "height"]].to_numpy(np.float64, na_value=0)
        unknown = np.flatnonzero(np.any(sizes <= 0, axis=1))
        if not len(unknown):
            return self
        sizes[unknown], errors = photo_sizes(self.root, self.rows["path"].iloc[unknown], cache)
        if errors and self.bad_image == "error":
            raise UserError(errors[min(errors)])
        if self.boxes is not None:
            boxed = unknown[~np.isnan(self.boxes[unknown]).any(axis=1)]
            sides = np.rint(self.boxes[boxed, 2:] - self.boxes[boxed, :2])
            sizes[boxed] = np.clip(sides, 1, sizes[boxed])
        widths, heights = sizes.astype(np.int64).T
        sized = dataclasses.replace(self, rows=self.rows.assign(width=widths, height=heights))
        return sized._without({int(unknown[position]): errors[position] for position in errors})

    def _without(self, errors: Mapping[int, str]) -> "ImageTable":
        """Move the rows of `errors` to `skipped`."""
        if not errors:
            return self
        bad = sorted(errors)
        removed = self.rows.iloc[bad][["id", "path"]]
        reasons = [
            reason_of(errors[row], f"{self.root}/{path}")
            for row, path in zip(bad, removed["path"], strict=True)
        ]
        if len(bad) == len(self):
            raise UserError(
                f"{self.root}: none of the {len(self):,} photos can be used ("
                f"{removed['path'].iloc[0]} {reasons[0]}). Check data.root."
            )
        rows = self.rows.drop(index=self.rows.index[bad]).reset_index(drop=True)
        skipped = pd.concat([self.skipped, removed.assign(reason=reasons)], ignore_index=True)
        return dataclasses.replace(self, rows=rows, skipped=skipped)

    def groups(self, image_format: "ImageFormat") -> NDArray[np.int64]:
        """Return each photo's aspect group (N,); sizes are read only if groups differ.

        Raises:
            ValueError: A photo must be skipped; call `with_sizes` first.
        """
        if image_format.is_uniform:
            return np.zeros(len(self), np.int64)
        rows = self.with_sizes().rows
        if len(rows) != len(self):
            raise ValueError("some photos must be skipped: call with_sizes first")
        return image_format.groups(rows["width"].to_numpy(), rows["height"].to_numpy())


def digest_of_table(frame: pd.DataFrame) -> str:
    """Return the digest of the column names and all values, in order."""
    names = json.dumps([str(name) for name in frame.columns]).encode()
    columns = (frame[name].to_numpy(dtype=object, na_value=None) for name in frame.columns)
    hashes = (pd.util.hash_array(column).tobytes() for column in columns)
    return digest_of_blocks([names, *hashes])


def sorted_landmarks(landmark_ids: pd.Series) -> list[str]:
    """Return the distinct ids, sorted by value if all are whole numbers, else by name.

    Example:
        >>> sorted_landmarks(pd.Series(["10", "9", "9"]))
        ['9', '10']
        >>> sorted_landmarks(pd.Series(["10", "9", "b"]))
        ['10', '9', 'b']
    """
    distinct = [str(landmark) for landmark in landmark_ids.dropna().unique()]
    if all(landmark.isascii() and landmark.isdigit() for landmark in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)

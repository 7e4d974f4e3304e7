"""What every set of photos offers: tables of its splits, and a validation set with landmarks."""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import pandas as pd

from landmark.data.bad_images import check_policy
from landmark.data.filters import Filters
from landmark.data.image_table import ImageTable
from landmark.data.splits import SPLITS, HoldOut
from landmark.error import UserError

VALIDATIONS = ("splits", "train", "none")


class Source(ABC):
    """A set of photos on disk. Nothing is read before it is asked for."""

    root: Path

    @abstractmethod
    def read(self, split: str | None = None) -> ImageTable:
        """Return the photos of "train", "query" or "gallery", or all of them (None).

        Raises:
            UserError: the split is unknown or empty, or a file is missing or malformed.
        """

    @abstractmethod
    def validation(self) -> tuple[ImageTable, ImageTable]:
        """Return (query, gallery) with `landmark_id`, never trained on; both empty without any.

        Raises:
            UserError: as `read`; or the set has no landmarks.
        """


class LandmarkSource(Source):
    """A set whose train photos have landmarks; its subclasses say where the rows come from.

    Args:
        root: folder below which the paths of the rows lie.
        filters: of the train photos, applied after the held-out ones are gone.
        hold_out: what is held out of train, where validation comes from there.
        validation: "splits": the set's own query and gallery photos, where they have landmarks,
            else held out of train; "train": always held out of train, so that settings can be
            chosen without a look at the queries; "none": no validation, nothing held out.
        bad_image: of photos that cannot be used (missing, broken, no image, too small, too large):
            "error" stops at the first; "skip" leaves them out and lists them, see
            `landmark.data.bad_images`.
    """

    def __init__(
        self,
        root: str | Path,
        filters: Filters,
        hold_out: HoldOut,
        validation: str = "splits",
        bad_image: str = "error",
    ) -> None:
        if validation not in VALIDATIONS:
            raise UserError(f"data.validation={validation}: choose one of {', '.join(VALIDATIONS)}")
        check_policy(bad_image)
        self.root = Path(root)
        self._bad_image = bad_image
        self._filters = filters
        self._hold_out = hold_out
        self._validation = validation

    @abstractmethod
    def _rows(self, split: str) -> pd.DataFrame:
        """Return a split's rows (id, path, landmark_id where known), in the files' order."""

    def read(self, split: str | None = None) -> ImageTable:
        """Return one split, or all; train is filtered and without the held-out photos.

        Raises:
            UserError: the split is unknown or empty, or a file is missing or malformed.
        """
        if split is not None and split not in SPLITS:
            raise UserError(f"split={split}: choose one of {', '.join(SPLITS)}, or none for all")
        wanted = SPLITS if split is None else (split,)
        parts = [
            (self._train if name == "train" else self._rows(name)).assign(split=name)
            for name in wanted
        ]
        filled = [part for part in parts if len(part)]
        if not filled:
            raise UserError(f"{self.root}: no {split or ''} photos there".replace("  ", " "))
        return self._table(pd.concat(filled, ignore_index=True))

    def _table(self, rows: pd.DataFrame) -> ImageTable:
        return ImageTable(self.root, rows, bad_image=self._bad_image)

    def validation(self) -> tuple[ImageTable, ImageTable]:
        """Return (query, gallery) with landmarks, of the splits or held out of train."""
        if self._holds_out:
            held = self._divided_train
            tables = [held[held["split"] == name] for name in ("query", "gallery")]
        elif self._validation == "none":
            tables = [self._divided_train.iloc[:0]] * 2
        else:
            tables = [self._rows(name).assign(split=name) for name in ("query", "gallery")]
            # A query without landmark has no right answer; a gallery photo without distracts.
            tables[0] = tables[0].dropna(subset="landmark_id")
        query, gallery = (self._table(table.reset_index(drop=True)) for table in tables)
        return query, gallery

    @property
    def _train(self) -> pd.DataFrame:
        rows = self._divided_train
        rows = rows[rows["split"] == "train"]
        if not len(rows):
            return rows
        kept = self._filters.apply(rows)
        if not len(kept):
            raise UserError(
                f"{self.root}: no train photo passes data.most_frequent, min_photos and max_photos"
            )
        return kept

    @cached_property
    def _divided_train(self) -> pd.DataFrame:
        """The train rows with a split column that tells the held-out ones."""
        rows = self._rows("train")
        if self._holds_out and len(rows):
            return rows.assign(split=self._hold_out.split(rows["landmark_id"]))
        return rows.assign(split="train")

    @cached_property
    def _holds_out(self) -> bool:
        if self._validation != "splits":
            return self._validation == "train"
        parts = [self._rows(name) for name in ("query", "gallery")]
        return not all(len(part) and "landmark_id" in part for part in parts)

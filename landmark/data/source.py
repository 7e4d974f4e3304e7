"""Sets of photos: a table per split, and a validation set with landmarks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import PositiveInt

from landmark.artifact.table import SPLITS
from landmark.data.bad_images import BadImage
from landmark.data.exclusion import EXCLUDED, Exclusion
from landmark.data.image_table import ImageTable
from landmark.data.splits import Fraction, filter_photos
from landmark.data.splitter import Splitter, is_labelled
from landmark.error import UserError
from landmark.processes import notice
from landmark.settings import Seed, checked

Validation = Literal["splits", "train", "none"]


class Source(ABC):
    """A set of photos on disk. The constructor reads nothing."""

    root: Path
    # [width, height] of the training images for image=auto. None means the format's default.
    image_sizes: Sequence[Sequence[int]] | None = None
    # Whether train photos need a landmark; a loss without labels sets it to False.
    needs_landmarks: bool = True

    @abstractmethod
    def read(self, split: str | None = None) -> ImageTable:
        """Return the photos of "train", "query" or "gallery", or all of them (None).

        Raises:
            UserError: The split is unknown or empty, or a file is missing or malformed.
        """

    @abstractmethod
    def validation(self) -> tuple[ImageTable, ImageTable]:
        """Return (query, gallery) with `landmark_id`, not trained on; empty without validation.

        Raises:
            UserError: As `read`, or the set has no landmarks.
        """


class LandmarkOptions(TypedDict, total=False):
    """Options of every set with landmarks.

    Attributes:
        query_fraction: Expected fraction of the photos that become queries when splits are drawn or
            photos are held out of train, see `landmark.data.splits.draw_splits`. Landmarks with
            fewer than three photos are only trained on.
        gallery_fraction: Expected fraction that becomes gallery.
        most_frequent: Train on this many landmarks, those with the most photos. Defaults to all.
        min_photos: Train on landmarks with at least this many photos.
        max_photos: Train on at most this many photos of a landmark, drawn by seed. Defaults to all.
        seed: Seed of all draws. What is drawn for a photo depends on its landmark, its id and the
            seed alone.
        bad_image: What to do with a photo that cannot be used (missing, broken, not an image, too
            small, too large): "error" raises; "skip" skips and lists it, see
            `landmark.data.bad_images`.
        exclude: File of photos (column `id`) and landmarks (column `landmark_id`) to leave out of
            train, such as exclude.csv of an audit; see `landmark.data.exclusion`. The splits of the
            other photos do not depend on it.
    """

    query_fraction: Fraction
    gallery_fraction: Fraction
    most_frequent: PositiveInt | None
    min_photos: PositiveInt
    max_photos: PositiveInt | None
    seed: Seed
    bad_image: BadImage
    exclude: str | Path | None


class SplitOptions(LandmarkOptions, total=False):
    """Options of a set whose query and gallery photos may have landmarks.

    Attributes:
        validation: "splits" validates with the query and gallery photos if they have landmarks,
            otherwise with photos held out of train; "train" always holds out of train, so that
            settings can be chosen without the queries; "none" does not validate.
    """

    validation: Validation


class LandmarkSource(Source):
    """A set whose train photos have landmarks. Subclasses provide the rows.

    Args:
        root: Folder that contains the photos.
        query_fraction, gallery_fraction, validation: See `SplitOptions`.
        most_frequent, min_photos, max_photos, seed, bad_image, exclude: See `LandmarkOptions`. The
            filters apply to the train photos that are not held out or excluded.

    Attributes:
        splitter: What decides the splits; a command may give it those of a run.
    """

    _held_out_landmarks: int | None = None  # None: hold out photos of every landmark

    @checked
    def __init__(
        self,
        root: str | Path,
        *,
        query_fraction: Fraction = 0.1,
        gallery_fraction: Fraction = 0.2,
        validation: Validation = "splits",
        most_frequent: PositiveInt | None = None,
        min_photos: PositiveInt = 1,
        max_photos: PositiveInt | None = None,
        seed: Seed = 0,
        bad_image: BadImage = "error",
        exclude: str | Path | None = None,
    ) -> None:
        self.root = Path(root)
        self._exclude = None if exclude is None else Path(exclude)
        self.seed = seed
        self._bad_image = bad_image
        self._validation = validation
        self.splitter = Splitter(query_fraction, gallery_fraction, seed)
        self._filter = partial(
            filter_photos,
            most_frequent=most_frequent,
            min_photos=min_photos,
            max_photos=max_photos,
            seed=seed,
        )

    def split_table(self) -> pd.DataFrame:
        """Return the splits of the photos that training reads, as in `write_split_table`."""
        rows = self._divided_train
        return _with_held_out(rows.assign(split="train"), rows["split"])

    @abstractmethod
    def _rows(self, split: str) -> pd.DataFrame:
        """Return a split's rows (id, path, landmark_id if known), in the order of the file."""

    def read(self, split: str | None = None) -> ImageTable:
        """Return one split, or all; train is filtered and has no held-out photos.

        All photos of a list include those that are held out or have no split or landmark.

        Raises:
            UserError: The split is unknown or empty, or a file is missing or malformed.
        """
        if split is not None and split not in SPLITS:
            raise UserError(f"split={split} does not exist. Pass one of {', '.join(SPLITS)}.")
        if split is None:
            parts = [self._all_train_rows(), *map(self._named_rows, SPLITS[1:]), self._other_rows()]
        else:
            parts = [self._train_rows() if split == "train" else self._named_rows(split)]
        parts = [part for part in parts if len(part)]
        if not parts:
            photos = f"{split} photos" if split else "photos"
            raise UserError(f"{self.root} contains no {photos}. Check data.root and its splits.")
        return self._table(pd.concat(parts, ignore_index=True))

    def validation(self) -> tuple[ImageTable, ImageTable]:
        """Return (query, gallery) with landmarks, from the splits or held out of train."""
        if self._holds_out:
            rows = self._divided_train
            query, gallery = (rows[rows["split"] == name] for name in ("query", "gallery"))
        elif self._validation == "none":
            query = gallery = self._divided_train.iloc[:0]
        else:
            query, gallery = (self._named_rows(name) for name in ("query", "gallery"))
            # Without a landmark a query has no correct result; a gallery photo is a distractor.
            query = query.dropna(subset="landmark_id")
        return self._table(query), self._table(gallery)

    def _table(self, rows: pd.DataFrame) -> ImageTable:
        return ImageTable(self.root, rows.reset_index(drop=True), bad_image=self._bad_image)

    def _named_rows(self, split: str) -> pd.DataFrame:
        return self._rows(split).assign(split=split)

    def _other_rows(self) -> pd.DataFrame:
        """Return the rows without a split."""
        return pd.DataFrame()

    def _all_train_rows(self) -> pd.DataFrame:
        """Return the train rows of all photos: of a published set, without the held-out ones."""
        if count := int(self._divided_train["split"].isin(["query", "gallery"]).sum()):
            notice(
                f"{self.root}: split=null leaves out {count:,} train photos that are held out for "
                "validation"
            )
        return self._train_rows()

    def _train_rows(self) -> pd.DataFrame:
        rows = self._divided_train
        rows = rows[rows["split"] == "train"]
        filtered = self._filtered(rows) if len(rows) else rows
        if len(rows) and not len(filtered):
            raise UserError(
                f"{self.root}: no train photo passes the filters. Relax data.most_frequent, "
                "data.min_photos or data.max_photos."
            )
        return filtered

    def _filtered(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that pass the filters; rows without a landmark do."""
        labelled = is_labelled(rows)
        if labelled.all():
            return self._filter(rows)
        passes = ~labelled
        if labelled.any():
            passes |= rows["id"].isin(self._filter(rows[labelled])["id"]).to_numpy()
        return rows[passes].reset_index(drop=True)

    @cached_property
    def _divided_train(self) -> pd.DataFrame:
        """Train rows; the column `split` marks held-out and excluded rows."""
        rows = self._rows("train")
        if not len(rows):
            return rows.assign(split="train")
        landmarks, holds_out = self._held_out_landmarks, self._holds_out
        divided = self.splitter.held_out(rows, landmarks, holds_out)
        if self._exclude is not None:
            self._mark_excluded(rows, divided)
        if not (divided == "train").any() and (divided == EXCLUDED).any():
            raise UserError(
                f"{self.root}: data.exclude={self._exclude} leaves no photo to train on. Exclude "
                "fewer photos."
            )
        return rows.assign(split=divided)

    def _mark_excluded(self, rows: pd.DataFrame, divided: NDArray[np.object_]) -> None:
        """Mark the rows that data.exclude lists, in place; print how many."""
        recorded = int((divided == EXCLUDED).sum())
        assert self._exclude is not None
        if self.splitter.run is not None and not self._exclude.is_file():
            notice(
                f"data.exclude={self._exclude} does not exist; the {recorded:,} photos that the "
                "run excluded stay excluded"
            )
            return
        exclusion = Exclusion(self._exclude)
        divided[exclusion.of(rows)] = EXCLUDED
        count = int((divided == EXCLUDED).sum())
        unknown = exclusion.unknown(rows)
        notice(
            f"data.exclude={self._exclude}: {count:,} of {len(rows):,} train photos are left out"
            + (f"; not in train: {unknown}" if unknown else "")
        )

    @cached_property
    def _holds_out(self) -> bool:
        if self._validation != "splits":
            return self._validation == "train"
        parts = [self._rows(name) for name in ("query", "gallery")]
        return not all(len(part) and "landmark_id" in part for part in parts)


class ListedSource(LandmarkSource):
    """A set read as one list of photos. Without a column `split` the splits are drawn."""

    @abstractmethod
    def _list(self) -> pd.DataFrame:
        """Return all rows: id, path, and landmark_id and split if known."""

    @cached_property
    def _all_rows(self) -> pd.DataFrame:
        rows = self._list()
        return rows.assign(split=self.splitter.splits(rows))

    def split_table(self) -> pd.DataFrame:
        """Return the splits of all photos, as in `write_split_table`."""
        return _with_held_out(self._all_rows, self._divided_train["split"])

    def _all_train_rows(self) -> pd.DataFrame:
        """Return the filtered train rows, the held-out ones, and those without a landmark."""
        rows = self._divided_train
        rows = rows[rows["split"] != EXCLUDED]
        passes = (rows["split"] != "train") | ~is_labelled(rows)
        if not passes.all():
            passes |= rows["id"].isin(self._filter(rows[~passes])["id"])
        return rows[passes].assign(split="train")

    def _other_rows(self) -> pd.DataFrame:
        return self._all_rows[self._all_rows["split"].isna()]

    def _rows(self, split: str) -> pd.DataFrame:
        rows = self._all_rows
        return rows[rows["split"] == split].reset_index(drop=True)


def _with_held_out(rows: pd.DataFrame, divided: pd.Series) -> pd.DataFrame:
    """Add `held_out`: the value of `divided` for train rows that are not trained on."""
    held_out = np.full(len(rows), None, object)
    is_train = (rows["split"] == "train").to_numpy()
    held_out[is_train] = divided.where(divided != "train", None).to_numpy(object)
    table = rows.assign(held_out=held_out)
    return table.reindex(columns=["id", "landmark_id", "split", "held_out"])

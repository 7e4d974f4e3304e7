"""Decide the splits of a set's photos: as a run has them, else as listed, else drawn by seed."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.data.earlier_splits import draw_earlier_splits
from landmark.data.exclusion import EXCLUDED
from landmark.data.run_splits import SPLIT_TABLE, Change, RunSplits
from landmark.data.splits import Purpose, draw_splits, expected_splits


class Splitter:
    """Decides splits, and remembers what a command should say about them.

    Args:
        query_fraction, gallery_fraction: Expected fractions of the photos, see `draw_splits`.
        seed: Seed of the draws.

    Attributes:
        run: Splits of a run, which are used for the photos that it knows.
        changes: What differs between the photos of `run` and those of the set.
        notes: Lines to print. Both are filled when photos are read.
    """

    def __init__(self, query_fraction: float, gallery_fraction: float, seed: int) -> None:
        self._fractions = (query_fraction, gallery_fraction)
        self._seed = seed
        self.run: RunSplits | None = None
        self._uses_earlier_rule = False
        self.changes: list[Change] = []
        self.notes: list[str] = []
        self._is_compared = False
        self._run_without_table: Path | None = None

    def recompute(self, run: Path, earlier_rule: bool) -> None:
        """Draw the splits of a run again that has no splits.parquet, and say so.

        Args:
            run: Run folder.
            earlier_rule: Whether a version that wrote no splits.parquet drew them.
        """
        self._run_without_table, self._uses_earlier_rule = run, earlier_rule

    def splits(self, photos: pd.DataFrame) -> NDArray[np.object_]:
        """Return the split of each photo of a set, (N,).

        Args:
            photos: All photos, with `id` and, if known, `landmark_id` and `split`.
        """
        splits = np.full(len(photos), "gallery", object)  # also of photos without a landmark
        positions = self._compare(photos)
        is_new = positions < 0
        if "split" in photos:
            splits = photos["split"].to_numpy(object).copy()
        else:
            is_drawn = is_new & is_labelled(photos)
            splits[is_drawn] = self._draw(photos[is_drawn], "splits")
        if self.run is not None:
            if "split" in photos:
                self.changes += self.run.reassigned(photos, positions)
            splits[~is_new] = self.run.rows["split"].to_numpy(object)[positions[~is_new]]
            self._note_changes(self.run.file, photos["id"], splits, is_new)
        return splits

    def held_out(
        self, train: pd.DataFrame, landmarks: int | None, holds_out: bool
    ) -> NDArray[np.object_]:
        """Return "query" or "gallery" for train photos that are held out, else "train", (N,).

        Photos that the run excluded are "excluded".

        Args:
            train: Train photos with `id` and, if known, `landmark_id`; others stay in train.
            landmarks: Number of landmarks of which photos are held out. Defaults to all.
            holds_out: Whether any photo is held out.
        """
        splits = np.full(len(train), "train", object)
        if self.run is None:
            if holds_out:
                labelled = is_labelled(train)
                splits[labelled] = self._draw(train[labelled], "validation", landmarks)
            return splits
        is_first = not self._is_compared  # published splits: only train photos are compared
        positions = self._compare(train)
        is_new = positions < 0
        held_out = self.run.rows["held_out"].to_numpy(object)[positions[~is_new]]
        if holds_out:
            splits[~is_new] = np.where(pd.isna(held_out), "train", held_out)
        else:
            splits[~is_new] = np.where(held_out == EXCLUDED, EXCLUDED, "train")
        if holds_out:
            is_drawn = is_new & is_labelled(train)
            if landmarks is not None:  # new landmarks are trained on
                is_drawn &= train["landmark_id"].isin(self.run.held_out_landmarks).to_numpy()
            splits[is_drawn] = self._draw(train[is_drawn], "validation")
        if is_first:
            self._note_changes(self.run.file, train["id"], splits, is_new)
        return splits

    def _compare(self, photos: pd.DataFrame) -> NDArray[np.int64]:
        """Return each photo's row in the run's table (N,), -1 for new photos or without a run."""
        if self.run is None:
            return np.full(len(photos), -1)
        positions, changes = self.run.compare(photos)
        if not self._is_compared:
            self.changes, self._is_compared = changes, True
        return positions

    def _draw(
        self, photos: pd.DataFrame, purpose: Purpose, landmarks: int | None = None
    ) -> NDArray[np.object_]:
        """Draw the splits of photos that the run does not know, (N,)."""
        if photos.empty:
            return np.empty(0, object)
        if self._run_without_table is not None:
            self.notes.append(
                f"{self._run_without_table} has no {SPLIT_TABLE}, so its splits are recomputed: "
                "those of training only if no photo was added or removed since."
            )
            self._run_without_table = None  # say it once
        if self._uses_earlier_rule:
            return draw_earlier_splits(photos, *self._fractions, self._seed, landmarks)
        splits = np.empty(len(photos), object)
        # Photos of the run's landmarks join splits that are complete: no minimum counts.
        is_joining = np.zeros(len(photos), bool)
        if self.run is not None:
            is_joining = photos["landmark_id"].isin(self.run.landmarks).to_numpy()
        joining = photos[is_joining]
        splits[is_joining] = expected_splits(joining, *self._fractions, self._seed, purpose)
        draw = draw_splits(photos[~is_joining], *self._fractions, self._seed, landmarks, purpose)
        splits[~is_joining] = draw.splits
        if draw.forced:
            self.notes.append(
                f"Minimum counts (a query, a gallery and a train photo of each landmark of at "
                f"least 3 photos) decide the splits of {draw.forced:,} of {len(photos):,} photos."
            )
        return splits

    def _note_changes(
        self,
        file: Path,
        ids: pd.Series,
        splits: NDArray[np.object_],
        is_new: NDArray[np.bool_],
    ) -> None:
        if is_new.any():
            counts = pd.Series(splits[is_new]).value_counts(sort=False).to_dict()
            first = str(ids.iloc[int(is_new.argmax())])
            self.changes.insert(0, Change("new", int(is_new.sum()), first, counts))
        self.notes += [f"{file}: {change.line()}" for change in self.changes]


def is_labelled(photos: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether each photo has a landmark, (N,)."""
    if "landmark_id" in photos:
        return photos["landmark_id"].notna().to_numpy()
    return np.zeros(len(photos), bool)

"""Your own photos: one folder per landmark."""

import os
import re
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from landmark.artifact.table import SPLITS, read_frame
from landmark.data.source import ListedSource
from landmark.error import UserError

_EXTENSIONS = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class Folder(ListedSource):
    """Photos at `ROOT/<landmark>/<photo>`; the landmark is the folder's name.

    The splits are those of `ROOT/splits.csv` (columns `path,split`; paths relative to ROOT), which
    then must list every photo; without the file they are drawn by seed. A photo's id is its path,
    with spaces escaped as %20, since lists of ids are separated by spaces.

    Args:
        root: Folder of the photos.
        **options: See `SplitOptions`.
    """

    def _list(self) -> pd.DataFrame:
        rows = folder_rows(self.root)
        listing = self.root / "splits.csv"
        return rows.assign(split=_read_splits(listing, rows["path"])) if listing.is_file() else rows


def folder_rows(root: Path) -> pd.DataFrame:
    """Return id, path and landmark_id of the photos at `root/<landmark>/<photo>`, sorted by path.

    Raises:
        UserError: The folder does not exist or contains no photo.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder. Set data.root to the folder of your photos.")
    paths, landmarks = [], []
    for landmark in filter(lambda name: (root / name).is_dir(), _visible_names(root)):
        for name in _visible_names(root / landmark):
            if os.path.splitext(name)[1].lower() in _EXTENSIONS:  # noqa: PTH122
                paths.append(f"{landmark}/{name}")
                landmarks.append(landmark)
    if not paths:
        raise UserError(
            f"{root} contains no photos. Put them at {root}/<landmark>/<photo>.jpg (or png, webp, "
            "…)."
        )
    ids = [re.sub(r"[\s%]", lambda blank: quote(blank[0]), path) for path in paths]
    return pd.DataFrame({"id": ids, "path": paths, "landmark_id": landmarks}, dtype=str)


def _visible_names(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208


def _read_splits(listing: Path, paths: pd.Series) -> pd.Series:
    """Return each photo's split from the CSV."""
    frame = read_frame(listing, ("path", "split"))
    for column in ("path", "split"):
        if column not in frame:
            raise UserError(f"{listing} has no column {column}. Its header must be path,split.")
    frame = frame[["path", "split"]].fillna("")
    wrong = frame[~frame["split"].isin(SPLITS)]
    if len(wrong):
        path, split = wrong.iloc[0]
        raise UserError(f"{listing}: {path} has split '{split}'. Use one of {', '.join(SPLITS)}.")
    repeated = frame.loc[frame["path"].duplicated(), "path"]
    if len(repeated):
        raise UserError(f"{listing} lists {repeated.iloc[0]} more than once. List it once.")
    missing = frame.loc[~frame["path"].isin(paths), "path"]
    if len(missing):
        raise UserError(
            f"{listing} lists {missing.iloc[0]}, which does not exist ({len(missing)} such photos)."
            " Remove these lines or restore the photos."
        )
    splits = paths.map(frame.set_index("path")["split"])
    unlisted = paths[splits.isna()]
    if len(unlisted):
        raise UserError(
            f"{listing} does not list {unlisted.iloc[0]} ({len(unlisted)} such photos). List every "
            "photo, or delete the file to draw the splits."
        )
    return splits

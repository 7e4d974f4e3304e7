"""Your own photos: one folder per landmark."""

import re
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from landmark.artifact.photo_paths import check_storable, in_one_form, one_form, relative_paths
from landmark.artifact.table import (
    SPLITS,
    check_columns,
    check_lines,
    check_paths,
    plain_splits,
    read_frame,
)
from landmark.data.scan import Scan, scan
from landmark.data.source import ListedSource
from landmark.error import UserError
from landmark.processes import notice

# Names of folders that hold splits, not landmarks.
_SPLIT_NAMES = {*SPLITS, "index", "test", "val", "valid", "validation"}


class Folder(ListedSource):
    """Photos at `ROOT/<landmark>/…/<photo>`; the landmark is the first folder's name.

    Photos are the files of every format whose pixels Pillow decodes (see
    `landmark.image.file_types`). One line on standard error counts what is not used.

    The splits are those of `ROOT/splits.csv` (columns `path,split`; paths relative to ROOT), which
    then must list every photo, and may list files with other suffixes; without the file they are
    drawn by seed. A photo's id is its path in Unicode form NFC, with spaces escaped as %20, since
    lists of ids are separated by spaces.

    Args:
        root: Folder of the photos.
        **options: See `SplitOptions`.
    """

    def _list(self) -> pd.DataFrame:
        _check_is_folder(self.root)
        found = scan(self.root)
        listing = _listing_of_splits(self.root)
        splits = None if listing is None else _read_splits(listing, self.root, found)
        rows = _rows(self.root, found)
        if splits is not None:
            rows = rows.assign(split=_splits_of(rows["path"], splits, listing))
        if summary := found.summary():
            notice(f"{self.root}: {summary}")
        return rows


def folder_rows(root: Path) -> pd.DataFrame:
    """Return id, path and landmark_id of the photos at `root/<landmark>/…/<photo>`, sorted by path.

    Raises:
        UserError: The folder does not exist or contains no photo, its folders are splits, or a name
            cannot be stored or equals another one but for its Unicode form.
    """
    _check_is_folder(root)
    return _rows(root, scan(root))


def _check_is_folder(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"{root} is not a folder. Set data.root to the folder of your photos.")


def _rows(root: Path, found: Scan) -> pd.DataFrame:
    paths = [path for photos in found.photos.values() for path in photos]
    if not paths:
        reason = f" ({found.summary()})" if found.summary() else ""
        raise UserError(
            f"{root} contains no photos{reason}. Put them at {root}/<landmark>/<photo>.jpg (or png,"
            " webp, …)."
        )
    names = {name.lower() for name in found.photos}
    if names <= _SPLIT_NAMES and all(path.count("/") > 1 for path in paths):
        raise UserError(
            f"{root}: the folders {', '.join(found.photos)} are named after splits, not landmarks. "
            "Set data.root to one of them, or list the photos in a table (data=table)."
        )
    check_storable(paths, root)
    _check_forms(root, found.photos)
    landmarks = [one_form(name) for name, photos in found.photos.items() for _ in photos]
    ids = [re.sub(r"[\s%]", lambda blank: quote(blank[0]), one_form(path)) for path in paths]
    return pd.DataFrame({"id": ids, "path": paths, "landmark_id": landmarks}, dtype=str)


def _check_forms(root: Path, photos: dict[str, list[str]]) -> None:
    """Check that no two names differ only by their Unicode form."""
    for names in (photos, [path for paths in photos.values() for path in paths]):
        first: dict[str, str] = {}
        for name in names:
            other = name if name.isascii() else first.setdefault(one_form(name), name)
            if other != name:
                raise UserError(
                    f"{root}: {other!a} and {name!a} are one name in two Unicode forms. Rename one,"
                    " or merge them."
                )


def _listing_of_splits(root: Path) -> Path | None:
    names = sorted(path for path in root.iterdir() if path.name.lower() == "splits.csv")
    return names[-1] if names else None  # splits.csv sorts after Splits.csv


def _read_splits(listing: Path, root: Path, found: Scan) -> pd.Series:
    """Return the split of each path in NFC of the CSV; add files of other kinds to the photos."""
    frame = read_frame(listing, ("path", "split"))
    check_columns(frame, ("path", "split"), listing)
    check_lines(frame, listing)
    frame = pd.DataFrame(
        {
            "path": relative_paths(frame["path"], root).fillna(""),
            "split": plain_splits(frame["split"]).fillna(""),
        }
    )
    wrong = frame[~frame["split"].isin(SPLITS)]
    if len(wrong):
        path, split = wrong.iloc[0]
        raise UserError(f"{listing}: {path} has split '{split}'. Use one of {', '.join(SPLITS)}.")
    frame["name"] = in_one_form(frame["path"])
    repeated = frame.loc[frame["name"].duplicated(), "path"]
    if len(repeated):
        raise UserError(f"{listing} lists {repeated.iloc[0]} more than once. List it once.")
    known = {one_form(path) for photos in found.photos.values() for path in photos}
    others = frame.loc[~frame["name"].isin(known), "path"].tolist()
    check_paths(pd.Series(others, dtype=str), listing)
    missing = [path for path in others if not (root / path).is_file()]
    if missing:
        raise UserError(
            f"{listing} lists {missing[0]}, which does not exist ({len(missing)} such photos)."
            " Remove these lines or restore the photos."
        )
    if outside := [path for path in others if "/" not in path]:
        raise UserError(
            f"{listing} lists {outside[0]}, which is in no landmark's folder ({len(outside)} such "
            f"photos). Move it to {root}/<landmark>/."
        )
    found.use(others)
    return frame.set_index("name")["split"]


def _splits_of(paths: pd.Series, splits: pd.Series, listing: Path | None) -> pd.Series:
    """Return each photo's split."""
    found = in_one_form(paths).map(splits)
    unlisted = paths[found.isna()]
    if len(unlisted):
        raise UserError(
            f"{listing} does not list {unlisted.iloc[0]} ({len(unlisted)} such photos). List every "
            "photo, or delete the file to draw the splits."
        )
    return found

"""Google Landmarks v2 (Weyand et al., arXiv 2004.01804), its cleaned train set, and v1."""

import re
from pathlib import Path
from typing import Unpack

import pandas as pd
import pyarrow as pa
import pyarrow.csv
from pydantic import NonNegativeInt

from landmark.artifact.table import check_ids
from landmark.data.source import LandmarkOptions, LandmarkSource
from landmark.data.threads import map_in_threads
from landmark.error import UserError
from landmark.processes import notice
from landmark.settings import checked

_PUBLISHED_NAMES = {"train": "train", "query": "test", "gallery": "index"}
_CHARACTERS = {"a": 0, "b": 1, "c": 2}


class GLDv2(LandmarkSource):
    """4,132,914 train photos of 203,094 landmarks, 761,757 gallery photos, 117,577 queries.

    The root contains `train.csv` (`id,url,landmark_id`; landmark "None" is ignored), `index.csv`
    (the gallery) and `test.csv` (the queries; both with `id`), and the photos. The published
    queries have no landmarks, so validation photos are held out of train.

    GLDv2-clean (Ozaki and Yokoo, arXiv 1906.04087: 1,580,470 train photos of 81,313 landmarks) is
    the same set with `clean="train_clean.csv"` instead of `train.csv`. GLDv1 (Noh et al., arXiv
    1612.06321: 1,225,029 train photos of 14,951 landmarks) has the same files with photos at
    `{split}/{id}.jpg`; it was published as URLs, many of which are dead: pass `skip_missing`.

    Args:
        root: Folder of the set.
        photos: Path of a photo below the root. {split} is train, index or test; {id} is the id;
            {a}, {b}, {c} are its first three characters.
        clean: List of the train photos to use (`landmark_id,images`; the images are ids separated
            by spaces), absolute or relative to the root. Defaults to all of `train.csv`.
        skip_missing: Skip listed photos that do not exist (looks up every file).
        validation_landmarks: Number of landmarks with held-out photos, at most a tenth of all; 0
            holds out no photos.
        **options: See `LandmarkOptions`.

    Raises:
        UserError: `photos` lacks {id}, or has an unknown placeholder.
    """

    @checked
    def __init__(
        self,
        root: str | Path,
        *,
        photos: str = "{split}/{a}/{b}/{c}/{id}.jpg",
        clean: str | Path | None = None,
        skip_missing: bool = False,
        validation_landmarks: NonNegativeInt = 1000,
        **options: Unpack[LandmarkOptions],
    ) -> None:
        super().__init__(root, validation="train" if validation_landmarks else "none", **options)
        placeholders = set(_pieces(photos)[1::2])
        if "id" not in placeholders or not placeholders <= {"split", "id", *_CHARACTERS}:
            raise UserError(
                f"data.photos={photos} is not a valid path. It must contain {{id}} and may contain "
                "{split}, {a}, {b} and {c}."
            )
        self._held_out_landmarks = validation_landmarks
        self._photos = photos
        self._clean = clean
        self._skip_missing = skip_missing

    def _rows(self, split: str) -> pd.DataFrame:
        name = _PUBLISHED_NAMES[split]
        if split == "train" and self._clean:
            file = self.root / self._clean
            rows = _read_clean(file)
        else:
            file = self.root / f"{name}.csv"
            rows = _read_columns(file, ["id", "landmark_id"] if split == "train" else ["id"])
            if split == "train":
                rows = rows[rows["landmark_id"] != "None"].reset_index(drop=True)
        if not len(rows):
            raise UserError(f"{file} lists no photos. Download it again.")
        check_ids(rows["id"], file)
        rows = rows.assign(path=_photo_paths(self._photos, name, rows["id"]))
        return self._existing(rows, file)

    def _existing(self, rows: pd.DataFrame, file: Path) -> pd.DataFrame:
        """Return the rows whose photos exist; without `skip_missing` check only the first."""
        if not self._skip_missing:
            first = self.root / rows["path"].iloc[0]
            if not first.is_file():
                raise UserError(
                    f"{first} does not exist but is listed in {file.name}. Check data.root and "
                    "data.photos, or pass data.skip_missing=true."
                )
            return rows
        exists = list(map_in_threads(lambda path: (self.root / path).is_file(), rows["path"]))
        if not any(exists):
            raise UserError(
                f"{self.root} contains none of the photos of {file.name}. Check data.photos."
            )
        if not all(exists):
            notice(
                f"{file}: {exists.count(False):,} of {len(exists):,} photos are missing; skipped"
            )
        return rows[exists].reset_index(drop=True)


def _read_columns(file: Path, columns: list[str]) -> pd.DataFrame:
    """Return columns of a CSV as text, without parsing the others."""
    options = pyarrow.csv.ConvertOptions(
        include_columns=columns, column_types=dict.fromkeys(columns, pa.string())
    )
    try:
        return pyarrow.csv.read_csv(file, convert_options=options).to_pandas()
    except FileNotFoundError:
        raise UserError(f"{file} is missing. Download it with the published set.") from None
    except KeyError:
        raise UserError(f"{file} lacks a column. It must have {', '.join(columns)}.") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{file} is not a CSV ({error}). Download it again.") from None


def _read_clean(file: Path) -> pd.DataFrame:
    lists = _read_columns(file, ["landmark_id", "images"])
    empty = lists.loc[lists["images"].str.strip() == "", "landmark_id"]
    if len(empty):
        raise UserError(f"{file}: landmark {empty.iloc[0]} has no images. Remove the line.")
    rows = lists.assign(id=lists["images"].str.split()).explode("id", ignore_index=True)
    return rows[["id", "landmark_id"]].astype({"id": lists["images"].dtype})


def _pieces(template: str) -> list[str]:
    """Split a path into text and, at odd indices, the placeholders in braces."""
    return re.split(r"\{(\w*)\}", template)


def _photo_paths(template: str, split: str, ids: pd.Series) -> pd.Series:
    """Fill in a path for each id (N,)."""
    paths = pd.Series("", index=ids.index, dtype=ids.dtype)
    for position, piece in enumerate(_pieces(template)):
        if position % 2 == 0:
            paths = paths + piece
        elif piece == "split":
            paths = paths + split
        else:
            paths = paths + (ids if piece == "id" else ids.str[_CHARACTERS[piece]])
    return paths

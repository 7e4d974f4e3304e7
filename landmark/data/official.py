"""What the published Google landmark sets share: CSVs with an id column, paths made of ids."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv

from landmark.error import UserError

_LETTERS = {"a": 0, "b": 1, "c": 2}


def read_columns(file: Path, columns: list[str]) -> pd.DataFrame:
    """Return columns of a CSV as text, other columns unread.

    Raises:
        UserError: the file is missing or malformed, or a column is not in it.
    """
    try:
        table = pyarrow.csv.read_csv(
            file,
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string())
            ),
        )
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; it is part of the published set") from None
    except KeyError:
        raise UserError(f"{file}: its header must name {', '.join(columns)}") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: not a CSV ({error})") from None
    return table.to_pandas()


def photo_paths(template: str, split: str, ids: pd.Series) -> pd.Series:
    """Return the path of each id.

    Args:
        template: with {split} (train, index or test), {id}, and {a}, {b}, {c}: the id's first
            three characters.
        split: the published name of the split.
        ids: (N,) text.

    Raises:
        UserError: the template has another word in braces, or lacks {id}.
    """
    pieces = re.split(r"\{(\w*)\}", template)
    unknown = set(pieces[1::2]) - {"split", "id", *_LETTERS}
    if unknown or "id" not in pieces[1::2]:
        raise UserError(
            f"data.photos={template}: must hold {{id}} and may hold {{split}}, {{a}}, {{b}}, {{c}}"
        )
    paths = pd.Series("", index=ids.index, dtype=ids.dtype)
    for place, piece in enumerate(pieces):
        if place % 2 == 0:
            paths = paths + piece
        elif piece == "split":
            paths = paths + split
        else:
            paths = paths + (ids if piece == "id" else ids.str[_LETTERS[piece]])
    return paths


def present_rows(rows: pd.DataFrame, root: Path, file: Path, skip_missing: bool) -> pd.DataFrame:
    """Return the rows whose photos are there; without `skip_missing` only the first is looked for.

    Raises:
        UserError: that photo is missing, or all are.
    """
    if not skip_missing:
        first = root / rows["path"].iloc[0]
        if not first.is_file():
            raise UserError(
                f"{first}: listed in {file.name} but not there; check data.root and data.photos, "
                "or set data.skip_missing=true"
            )
        return rows
    with ThreadPoolExecutor(16) as pool:
        there: list[bool] = []
        for start in range(0, len(rows), 4096):
            block = rows["path"].iloc[start : start + 4096]
            there += pool.map(lambda path: (root / path).is_file(), block)
    if not any(there):
        raise UserError(f"{root}: none of the photos of {file.name}; check data.photos")
    return rows[there].reset_index(drop=True)

"""Image tables on disk: .csv or .parquet with id, path and optional columns."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from landmark.error import UserError

SPLITS = ("train", "query", "gallery")
_MAX_SIDE = 1 << 20
_TEXT_COLUMNS = ("id", "path", "landmark_id", "split")


def read_table(path: str | Path) -> pd.DataFrame:
    """Read an image table, with text columns as strings.

    Raises:
        UserError: The file is missing or not a table, the `id` column is missing, an id is empty or
            repeated, a path leaves the root, a split is unknown, or a width or height is not a
            number; names the first such row.
    """
    path = Path(path)
    frame = read_frame(path)
    check_columns(frame, ("id",), path)
    check_ids(frame["id"], path)
    if "path" in frame.columns:
        check_paths(frame["path"], path)
    if "split" in frame.columns:
        check_values(frame["split"].dropna(), SPLITS, path)
    for name in {"width", "height"} & set(frame.columns):
        frame[name] = _pixels(frame[name], path)
    return frame


def read_frame(path: str | Path, text_columns: tuple[str, ...] = _TEXT_COLUMNS) -> pd.DataFrame:
    """Read a .csv or .parquet file, with `text_columns` as strings.

    Raises:
        UserError: The file is missing, of another kind, or unreadable.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Pass a .csv or .parquet file.")
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path} is not a table. Pass a .csv or .parquet file.")
    try:
        frame = _read_csv(path, text_columns) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} cannot be read as a table ({reason}). Repair it.") from error
    present = [name for name in text_columns if name in frame.columns]
    return frame.astype(dict.fromkeys(present, "str"))


def _read_csv(path: Path, text_columns: tuple[str, ...]) -> pd.DataFrame:
    # A landmark may be called NA or null: in a text column only the empty field is missing.
    missing = {
        name: [""] if name in text_columns else ["", "NA", "NaN", "nan", "None", "null"]
        for name in pd.read_csv(path, nrows=0).columns
    }
    frame = pd.read_csv(
        path,
        dtype=dict.fromkeys(text_columns, "str"),
        na_values=missing,
        keep_default_na=False,
    )
    # With extra fields pandas uses the first column as the index and shifts the names by one.
    if not isinstance(frame.index, pd.RangeIndex):
        raise UserError(
            f"{path} has rows with more fields than the header. Quote fields that contain commas."
        )
    return frame


def _pixels(sides: pd.Series, where: str | Path) -> pd.Series:
    """Convert to numbers of pixels; 0 and missing values mean unknown."""
    numbers = pd.to_numeric(sides, errors="coerce")
    wrong = sides.notna() & ~numbers.between(0, _MAX_SIDE)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise UserError(
            f"{where}: {sides.name} {sides.iloc[row]} in row {row + 1} is not a number of pixels. "
            "Leave unknown sizes empty."
        )
    return numbers


def check_columns(frame: pd.DataFrame, names: Iterable[str], where: str | Path) -> None:
    """Check that a table has the columns.

    Raises:
        UserError: A column is missing; names the first.
    """
    for name in names:
        if name not in frame.columns:
            columns = ", ".join(map(str, frame.columns)) or "none"
            raise UserError(f"{where} has no column {name} (columns: {columns}). Rename or add it.")


def check_values(column: pd.Series, allowed: Sequence[str], where: str | Path) -> None:
    """Check that a column contains only allowed values.

    Raises:
        UserError: A value is not allowed; names the first and its row.
    """
    unknown = column[~column.isin(allowed)]
    if len(unknown):
        raise UserError(
            f"{where}: unknown {column.name} {unknown.iloc[0]!r} in row {unknown.index[0] + 1}. "
            f"Use {', '.join(allowed)}."
        )


def check_ids(ids: pd.Series, where: str | Path) -> None:
    """Check that no id is missing or repeated.

    Raises:
        UserError: An id is missing or repeated; names the first.
    """
    missing = (ids.isna() | (ids == "")).to_numpy(dtype=bool)
    if missing.any():
        row = int(missing.argmax()) + 1
        raise UserError(f"{where}: row {row} has no id. Give every row a unique id.")
    repeated = ids.duplicated()
    if repeated.any():
        raise UserError(
            f"{where}: duplicate id {ids[repeated].iloc[0]!r}. Give every row a unique id."
        )


def check_paths(paths: pd.Series, where: str | Path) -> None:
    """Check that no path is missing or outside the data root.

    Raises:
        UserError: A path is missing or outside the root; names the first.
    """
    if paths.isna().any():
        row = int(paths.isna().to_numpy().argmax()) + 1
        raise UserError(f"{where}: row {row} has no path. Give every row a path.")
    suspicious = paths[paths.str.contains(r"\.\.|^[/\\]|^[A-Za-z]:|\\", regex=True)]
    for path in suspicious:
        pure = PurePosixPath(path.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in path[:2]:
            raise UserError(
                f"{where}: path {path!r} is outside the data root. Use paths relative to it."
            )

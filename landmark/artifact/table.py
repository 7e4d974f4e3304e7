"""Image tables on disk: .csv or .parquet with id, path and optional columns."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa

from landmark.artifact.photo_paths import is_printable_ascii, relative_paths
from landmark.error import UserError

SPLITS = ("train", "query", "gallery")
COORDINATES = ("utm_east", "utm_north")  # metres
_MAX_SIDE = 1 << 20
_TEXT_COLUMNS = ("id", "path", "landmark_id", "split")
_LINE_BREAKS = r"[\x00\r\n]"


def read_table(path: str | Path, root: Path | None = None) -> pd.DataFrame:
    """Read an image table, with text columns as strings.

    Args:
        path: The file.
        root: Data root, from which the paths are resolved as `relative_paths` does. Defaults to
            returning the paths as they are.

    Raises:
        UserError: The file is missing or not a table, the `id` column is missing, an id is empty or
            repeated, a path leaves the root, a split is unknown, or a width, height or coordinate
            is not a number; names the first such row.
    """
    path = Path(path)
    frame = read_frame(path)
    check_columns(frame, ("id",), path)
    check_ids(frame["id"], path)
    check_lines(frame, path)
    if "path" in frame.columns:
        if root is not None:
            frame["path"] = relative_paths(frame["path"], root)
        check_paths(frame["path"], path)
    if "split" in frame.columns:
        frame["split"] = plain_splits(frame["split"])
        check_values(frame["split"].dropna(), SPLITS, path)
    for name in {"width", "height"} & set(frame.columns):
        frame[name] = _pixels(frame[name], path)
    for name in {*COORDINATES} & set(frame.columns):
        _check_metres(frame[name], path)
    return frame


def read_frame(path: str | Path, text_columns: tuple[str, ...] = _TEXT_COLUMNS) -> pd.DataFrame:
    """Read a .csv or .parquet file, with `text_columns` as strings.

    Raises:
        UserError: The file is missing, of another kind, or unreadable.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist. Pass a .csv or .parquet file.")
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"{path} is not a table. Pass a .csv or .parquet file.")
    try:
        if path.suffix.lower() == ".csv":
            frame = _read_csv(path, text_columns)
        else:
            frame = _read_parquet(path, text_columns)
        for name in text_columns:
            if name in frame.columns:
                frame[name] = _as_text(frame[name], path)
    except UnicodeDecodeError as error:
        byte = f"byte {error.object[error.start]:#x}"
        raise UserError(
            f"{path} cannot be read as a table: it is not UTF-8 ({byte}). Save it as CSV in UTF-8."
        ) from error
    except (ValueError, OSError, pd.errors.ParserError, pa.ArrowException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as a table ({reason}). Repair it.") from error
    return frame


def _as_text(column: pd.Series, where: Path) -> pd.Series:
    """Convert to strings: whole numbers without ".0", although a missing value made them floats."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if pd.api.types.is_float_dtype(column.dtype):
        # Above this, neighbouring whole numbers are the same float.
        limit = 2.0 ** (np.finfo(column.dtype.type).nmant + 1)
        numbers = column.to_numpy(np.float64, na_value=np.nan)
        known = numbers[~np.isnan(numbers)]
        if (np.abs(known) >= limit).any():
            raise UserError(
                f"{where}: column {column.name} has floats of {limit:.0f} or more, which have lost "
                "digits. Save it as whole numbers or text."
            )
        if (known == np.rint(known)).all():
            column = pd.Series(numbers, column.index, name=column.name).astype("Int64")
    elif column.dtype == object:
        if column.map(pd.api.types.is_list_like).any():
            raise UserError(f"{where}: column {column.name} has lists. Save it as text.")
        column = column.map(lambda value: value.decode() if isinstance(value, bytes) else value)
    return column.astype("str").mask(column.isna())


def _read_parquet(path: Path, text_columns: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    if frame.index.name is not None and frame.index.name not in frame.columns:
        frame = frame.reset_index()  # pandas stored a column as the index
    return frame.rename(columns=_names_in_other_case(frame.columns, text_columns))


def _names_in_other_case(columns: Iterable[str], names: tuple[str, ...]) -> dict[str, str]:
    """Map columns to the names that they equal but for case and blanks, if only one does."""
    columns = list(columns)
    plain = [str(column).strip().casefold() for column in columns]
    return {
        columns[plain.index(name.casefold())]: name
        for name in names
        if name not in columns and plain.count(name.casefold()) == 1
    }


def _read_csv(path: Path, text_columns: tuple[str, ...]) -> pd.DataFrame:
    columns = pd.read_csv(path, nrows=0).columns
    renamed = _names_in_other_case(columns, text_columns)
    is_text = {name: renamed.get(name, name) in text_columns for name in columns}
    # A landmark may be called NA or null: in a text column only the empty field is missing.
    frame = pd.read_csv(
        path,
        dtype=dict.fromkeys((name for name in columns if is_text[name]), "str"),
        na_values={
            name: [""] if is_text[name] else ["", "NA", "NaN", "nan", "None", "null"]
            for name in columns
        },
        keep_default_na=False,
    ).rename(columns=renamed)
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


def _check_metres(coordinates: pd.Series, where: str | Path) -> None:
    numbers = pd.to_numeric(coordinates, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = coordinates.notna().to_numpy() & ~np.isfinite(numbers)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{where}: {coordinates.name} {coordinates.iloc[row]} in row {row + 1} is not a number "
            "of metres. Leave unknown coordinates empty."
        )


def plain_splits(splits: pd.Series) -> pd.Series:
    """Return the splits in lower case without blanks around them; empty ones are missing."""
    plain = splits.str.strip().str.lower()
    return plain.mask(plain == "")


def check_lines(frame: pd.DataFrame, where: str | Path) -> None:
    """Check that no id, path or landmark contains a line break, which ends a line of results.

    Raises:
        UserError: One does; names the first and its row.
    """
    for name in ("id", "path", "landmark_id"):
        if name in frame.columns and not is_printable_ascii(frame[name]):
            broken = frame[name].str.contains(_LINE_BREAKS, regex=True, na=False)
            if broken.any():
                row = int(broken.to_numpy().argmax())
                raise UserError(
                    f"{where}: {name} {frame[name].iloc[row]!r} in row {row + 1} contains a line "
                    "break. Check the quotes, or rename it."
                )


def check_columns(frame: pd.DataFrame, names: Iterable[str], where: str | Path) -> None:
    """Check that a table has the columns.

    Raises:
        UserError: A column is missing; names the first.
    """
    for name in names:
        if name not in frame.columns:
            columns = ", ".join(map(str, frame.columns)) or "none"
            advice = "Rename or add it."
            if len(frame.columns) == 1 and set(columns) & set(";\t|"):
                advice = "Separate the columns by commas."
            raise UserError(f"{where} has no column {name} (columns: {columns}). {advice}")


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

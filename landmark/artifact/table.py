"""The image table on disk: .csv or .parquet with id, path and what else is known."""

from pathlib import Path, PurePosixPath

import pandas as pd

from landmark.disk.atomic import atomic_file
from landmark.error import UserError

SPLITS = ("train", "query", "gallery")
_LONGEST_SIDE = 1 << 20
_TEXT_COLUMNS = ("id", "path", "landmark_id", "split")


def read_table(path: str | Path) -> pd.DataFrame:
    """The rows of an image table, its text columns as strings.

    Raises:
        UserError: not there, not a table, without `id`, with an id twice or empty, a path that
            leaves the root, an unknown split, or a width or height that is no number; names the
            first such row.
    """
    path = Path(path)
    frame = read_frame(path)
    if "id" not in frame.columns:
        found = ", ".join(map(str, frame.columns)) or "none"
        raise UserError(f"{path}: has no column id (columns: {found})")
    check_ids(frame["id"], path)
    if "path" in frame.columns:
        check_paths(frame["path"], path)
    if "split" in frame.columns:
        unknown = frame["split"][frame["split"].notna() & ~frame["split"].isin(SPLITS)]
        if len(unknown):
            raise UserError(
                f"{path}: split {unknown.iloc[0]!r} in row {unknown.index[0] + 1}; "
                f"choose {', '.join(SPLITS)}"
            )
    for name in {"width", "height"} & set(frame.columns):
        frame[name] = _pixels(frame[name], path)
    return frame


def read_frame(path: str | Path, text_columns: tuple[str, ...] = _TEXT_COLUMNS) -> pd.DataFrame:
    """A .csv or .parquet file as it is, with `text_columns` as strings.

    Raises:
        UserError: not there, of another kind, or unreadable.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: a table is a .csv or .parquet file")
    try:
        frame = _read_csv(path, text_columns) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be read as a table ({reason})") from error
    present = [name for name in text_columns if name in frame.columns]
    return frame.astype(dict.fromkeys(present, "str"))


def _read_csv(path: Path, text_columns: tuple[str, ...]) -> pd.DataFrame:
    # A landmark may be called NA or null: of a text only the empty one is missing.
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
    # Otherwise pandas takes the first column for an index and moves the names by one.
    if not isinstance(frame.index, pd.RangeIndex):
        raise UserError(f"{path}: its rows have more fields than its header has names")
    return frame


def _pixels(sides: pd.Series, where: str | Path) -> pd.Series:
    """Numbers of pixels; 0 and missing ones are unknown."""
    numbers = pd.to_numeric(sides, errors="coerce")
    wrong = sides.notna() & ~numbers.between(0, _LONGEST_SIDE)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise UserError(
            f"{where}: {sides.name} {sides.iloc[row]} in row {row + 1} is no number of pixels"
        )
    return numbers


def check_ids(ids: pd.Series, where: str | Path) -> None:
    """Refuses missing and repeated ids.

    Raises:
        UserError: names the first.
    """
    missing = (ids.isna() | (ids == "")).to_numpy(dtype=bool)
    if missing.any():
        raise UserError(f"{where}: row {int(missing.argmax()) + 1} has no id")
    repeated = ids.duplicated()
    if repeated.any():
        raise UserError(f"{where}: id {ids[repeated].iloc[0]!r} is there more than once")


def check_paths(paths: pd.Series, where: str | Path) -> None:
    """Refuses paths that are missing or lead out of the root.

    Raises:
        UserError: names the first.
    """
    if paths.isna().any():
        raise UserError(f"{where}: row {int(paths.isna().to_numpy().argmax()) + 1} has no path")
    suspicious = paths[paths.str.contains(r"\.\.|^[/\\]|^[A-Za-z]:|\\", regex=True)]
    for path in suspicious:
        pure = PurePosixPath(path.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in path[:2]:
            raise UserError(f"{where}: path {path!r} leaves the data root")


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Writes an image table as .csv or .parquet, by the name's ending.

    Raises:
        UserError: another ending, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: a table is a .csv or .parquet file")
    with atomic_file(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)

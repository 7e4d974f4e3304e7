"""The tables of the challenges, `id,images` and `id,landmarks`, as people write them."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from landmark.artifact.table import check_columns, check_ids, read_frame
from landmark.error import UserError

# A hundred ids take about 2 KB, the largest landmark of GLDv2 about 200 KB.
LONGEST_ROW = 1 << 20
_NAMES = ("id", "images", "landmarks", "Usage")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_challenge_table(path: str | Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a submission or a solution as text; blanks around names and ids are dropped.

    Column names may differ from `id`, `images`, `landmarks` and `Usage` in case and in blanks;
    `frame.attrs` maps each of these names to the name in the file.

    Args:
        path: The file.
        columns: Columns that it must have.

    Raises:
        UserError: The file is missing or not a table, a row is longer than 1 MiB, ends before
            its first separator or has a NUL byte, a column is missing or occurs twice, or an id is
            empty or repeated.
    """
    path = Path(path)
    header = _checked_header(path) if path.is_file() and path.suffix != ".parquet" else ()
    frame = read_frame(path, text_columns=(*header, *_NAMES))
    written = _written_names(header or frame.columns, path)
    frame = frame.rename(columns={name: known for known, name in written.items()})
    check_columns(frame, columns, path)
    present = [name for name in _NAMES if name in frame.columns]
    frame[present] = frame[present].astype("str").apply(lambda column: column.str.strip())
    check_ids(frame["id"], path)
    frame.attrs.update(written)
    return frame


def _written_names(names: Iterable[str], path: Path) -> dict[str, str]:
    """Return the name in the file of each known column."""
    written: dict[str, str] = {}
    for name in names:
        known = next((one for one in _NAMES if one.lower() == str(name).strip().lower()), None)
        if known is None:
            continue
        if known in written:
            raise UserError(
                f"{path}: the columns {written[known]!r} and {name!r} are both {known}. Keep one."
            )
        written[known] = str(name)
    return written


def _checked_header(path: Path) -> tuple[str, ...]:
    """Read a CSV line by line, check its lines, and return the names of its columns.

    Raises:
        UserError: A row is too long, ends before its first separator, or has a NUL byte.
    """
    header: tuple[str, ...] = ()
    separator, in_quotes, length = "", False, 0
    for number, line in enumerate(_lines(path), start=1):
        length = len(line) + (length if in_quotes else 0)  # quotes may enclose line ends
        if length >= LONGEST_ROW:
            raise UserError(
                f"{path}: the row at line {number:,} is longer than {LONGEST_ROW:,} bytes. Write "
                "one row per query, with at most 100 ids."
            )
        if "\0" in line:
            raise UserError(
                f"{path}: line {number:,} has a NUL byte, so it is not text. Save the file as CSV "
                "in UTF-8."
            )
        if not header and line.strip():
            text = line.removeprefix("\xef\xbb\xbf").removeprefix("\ufeff").rstrip("\n")
            separator = next((mark for mark in text if mark in ",;\t"), "")
            header = tuple(next(csv.reader([text], delimiter=separator or ",")))
        elif line.strip() and not in_quotes and separator not in line:
            raise UserError(
                f"{path}: line {number:,}, {line.strip()[:40]!r}, is cut off before the first "
                f"{separator!r}. Write {separator.join(header)} in every line."
            )
        in_quotes ^= line.count('"') % 2 == 1
    return header


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, whatever their ends; at most 1 MiB is in memory."""
    with path.open("rb") as file:
        is_wide = file.read(2) in _UTF_16
    # Latin-1 keeps every byte: only separators and line ends matter here.
    encoding = "utf-16" if is_wide else "latin-1"
    with path.open(encoding=encoding, errors="replace") as text:
        while line := text.readline(LONGEST_ROW):
            yield line

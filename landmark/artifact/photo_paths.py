"""Paths of photos in tables: relative to the data root, in the spelling of the disk."""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from landmark.error import UserError

Names: TypeAlias = "Sequence[str] | NDArray[np.str_] | pd.Series"

_NOT_ASCII = r"[^\x00-\x7f]"
_NOT_PLAIN = r"\\|^/|^[A-Za-z]:|^\./|/\./|//"
# Surrogates stand for bytes that are not UTF-8. The other characters end or break lines.
_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def one_form(text: str) -> str:
    r"""Return the text in Unicode form NFC, in which names are compared.

    Example:
        >>> one_form("cafe\u0301") == "caf\u00e9"
        True
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def in_one_form(texts: pd.Series) -> pd.Series:
    """Return the texts in Unicode form NFC; missing values stay missing."""
    return texts if is_printable_ascii(texts) else texts.str.normalize("NFC")


def arrow_in_one_form(texts: pd.Series) -> pa.Array:
    """Return the texts (N,) in Unicode form NFC as an Arrow array: fast for millions of them."""
    array = _arrow(texts)
    is_ascii = pc.all(pc.string_is_ascii(array), min_count=0).as_py()
    return array if is_ascii else pc.utf8_normalize(array, form="NFC")


def positions_of(names: Names, listed: Names) -> NDArray[np.int64]:
    """Return the position of each name (N,) in a list of distinct names, -1 if not listed.

    Names that are not listed as they are may be listed in another Unicode form.
    """
    positions = pd.Index(listed).get_indexer(pd.Index(names))
    missing = np.flatnonzero(positions < 0)
    unlisted = in_one_form(pd.Series(names).iloc[missing].astype("str"))
    if not is_printable_ascii(unlisted):
        forms = in_one_form(pd.Series(listed).astype("str"))
        if forms.is_unique:
            positions[missing] = pd.Index(forms).get_indexer(pd.Index(unlisted))
    return positions


def is_printable_ascii(texts: pd.Series) -> bool:
    """Whether no text contains any other character: a fast test, before slower ones."""
    return bool(pc.all(pc.ascii_is_printable(_arrow(texts)), min_count=0).as_py())


def _arrow(texts: pd.Series) -> pa.Array:
    array = pa.array(texts, pa.large_string(), from_pandas=True)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def check_storable(names: Sequence[str], folder: Path) -> None:
    """Check that names of files can be written to tables.

    Raises:
        UserError: A name is not UTF-8 or contains a control character; names the first.
    """
    if not _UNSTORABLE.search("/".join(names)):
        return
    name = next(name for name in names if _UNSTORABLE.search(name))
    is_utf8 = not re.search(r"[\ud800-\udfff]", name)
    reason = "contains a control character" if is_utf8 else "is not UTF-8"
    raise UserError(f"{folder}: the name of the file {name!a} {reason}. Rename it.")


def relative_paths(paths: pd.Series, root: Path) -> pd.Series:
    """Return the paths of photos relative to the root, with slashes, as they are on disk.

    Absolute paths inside the root become relative; backslashes become slashes unless a file has
    this very name; `./` and `//` are removed; a name in another Unicode form than on disk gets the
    form of the disk. Other paths are returned as they are, whether or not a file exists.

    Args:
        paths: (N,) paths; missing values stay missing.
        root: The data root.
    """
    if pc.any(pc.match_substring_regex(_arrow(paths), _NOT_PLAIN)).as_py():
        unusual = paths.str.contains(_NOT_PLAIN, regex=True, na=False)
        bases = {root.absolute().as_posix(), root.resolve().as_posix()}
        plain = [_plain_path(path, root, bases) for path in paths[unusual]]
        paths = paths.mask(unusual, pd.Series(plain, paths.index[unusual], dtype=paths.dtype))
    if not is_printable_ascii(paths):
        special = paths.str.contains(_NOT_ASCII, regex=True, na=False)
        names = cache(_names_on_disk)
        found = [_spelling_on_disk(path, root, names) for path in paths[special]]
        paths = paths.mask(special, pd.Series(found, paths.index[special], dtype=paths.dtype))
    return paths


def _plain_path(path: str, root: Path, bases: set[str]) -> str:
    if "\\" in path and "\0" not in path and not os.path.lexists(root / path):
        path = path.replace("\\", "/")
    start = "/" if path.startswith("/") else ""
    path = start + "/".join(part for part in path.split("/") if part not in ("", "."))
    for base in bases:
        path = path.removeprefix(f"{base.rstrip('/')}/")
    return path


def _spelling_on_disk(path: str, root: Path, names: Callable[[str], dict[str, str]]) -> str:
    """Return the path with each name in the Unicode form that exists on disk, if one does."""
    if "\0" in path or os.path.lexists(root / path):
        return path
    found: list[str] = []
    for part in path.split("/"):
        listed = names(str(root.joinpath(*found)))
        found.append(listed.get(one_form(part), part))
    return "/".join(found)


def _names_on_disk(folder: str) -> dict[str, str]:
    """Return the names in a folder that are not ASCII, by their NFC form."""
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return {}
    return {one_form(name): name for name in names if not name.isascii()}

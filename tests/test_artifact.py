"""Files and folders appear whole or not at all; tables are checked as they are read."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import landmark.artifact
from landmark.artifact.table import read_frame, read_table, write_table
from landmark.disk import atomic
from landmark.disk.atomic import atomic_file, atomic_folder
from landmark.error import UserError


@pytest.mark.parametrize(
    "name", [one.name for one in pkgutil.iter_modules(landmark.artifact.__path__)]
)
def test_docstring_examples(name):
    module = importlib.import_module(f"landmark.artifact.{name}")
    assert doctest.testmod(module).failed == 0


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def half(path: Path, stop: type[BaseException]) -> None:
    """Writes something and is stopped."""
    path.write_text("half")
    raise stop


def test_a_file_appears_when_its_block_ends(tmp_path):
    with atomic_file(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert tree(tmp_path) == {"new/a.txt": "whole"}
    assert (tmp_path / "new" / "a.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [{}, {"a.txt": "old"}])
def test_an_interrupted_file_leaves_what_was_there(tmp_path, stop, before):
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(stop), atomic_file(tmp_path / "a.txt") as temporary:
        half(temporary, stop)
    assert tree(tmp_path) == before


def test_a_file_that_cannot_be_written_is_a_mistake(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UserError, match=r"file/a\.txt cannot be written"),
        atomic_file(tmp_path / "file" / "a.txt"),
    ):
        pytest.fail("the block must not be entered")
    with (
        pytest.raises(UserError, match="is a folder"),
        atomic_file(tmp_path),
    ):
        pytest.fail("the block must not be entered")
    assert tree(tmp_path) == {"file": "in the way"}


def test_a_folder_appears_when_its_block_ends(tmp_path):
    with atomic_folder(tmp_path / "store") as temporary:
        (temporary / "a").write_text("whole")
        assert not (tmp_path / "store").exists()
    assert tree(tmp_path) == {"store/a": "whole"}


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "store").mkdir()
    with atomic_folder(tmp_path / "store") as temporary:
        (temporary / "a").write_text("whole")
    assert tree(tmp_path) == {"store/a": "whole"}
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_overwriting_keeps_the_old_folder_until_the_new_is_whole(tmp_path, stop):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a").write_text("old")
    with pytest.raises(stop), atomic_folder(tmp_path / "store", overwrite=True) as temporary:
        half(temporary / "b", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert tree(tmp_path) == {"store/a": "old"}
    with atomic_folder(tmp_path / "store", overwrite=True) as temporary:
        (temporary / "b").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert tree(tmp_path) == {"store/b": "new"}


def test_the_old_folder_returns_when_the_last_rename_fails(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a").write_text("old")
    rename = Path.rename

    def full_disk(path, target):
        if path != tmp_path / "store" and not path.name.endswith(".old"):
            raise OSError("no space left")
        return rename(path, target)

    monkeypatch.setattr(atomic, "exchange", lambda *_: False)  # as not on Linux
    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="no space"), atomic_folder(tmp_path / "store", True) as new:
        (new / "b").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert tree(tmp_path) == {"store/a": "old"}


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a").write_text("old")
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    with atomic_folder(tmp_path / "store", overwrite=True) as temporary:
        (temporary / "b").write_text("new")
    assert (tmp_path / "store").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "store"]
    assert tree(tmp_path / "disk") == {"b": "new"}


def test_a_taken_place_is_a_mistake(tmp_path):
    (tmp_path / "a").write_text("old")
    for path, words in ((tmp_path, "overwrite=true"), (tmp_path / "a", "is a file")):
        with pytest.raises(UserError, match=words) as caught, atomic_folder(path):
            pytest.fail("the block must not be entered")
        assert str(caught.value).startswith(f"{path} ")
    with (
        pytest.raises(UserError, match="cannot be written"),
        atomic_folder(tmp_path / "a" / "b"),
    ):
        pytest.fail("the block must not be entered")
    assert tree(tmp_path) == {"a": "old"}


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=6)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@settings(max_examples=15, deadline=None)
@given(ids=st.lists(TEXT | st.sampled_from(["NA", "null", "007", "1.0"]), unique=True))
def test_a_table_returns_as_it_was_written(tmp_path_factory, ending, ids):
    path = tmp_path_factory.mktemp("table") / f"table.{ending}"
    frame = pd.DataFrame(
        {
            "id": pd.Series(ids, dtype="str"),
            "path": [f"a/{row}.jpg" for row in range(len(ids))],
            "landmark_id": ["NA", "nan", "None", "012"][: len(ids)] + ["5"] * (len(ids) - 4),
            "split": (["train", "query", "gallery", None] * len(ids))[: len(ids)],
            "width": np.arange(len(ids)),
        }
    )
    write_table(frame, path)
    read = read_table(path)
    assert read["id"].tolist() == ids
    assert read["landmark_id"].tolist() == frame["landmark_id"].tolist()
    assert read["path"].tolist() == frame["path"].tolist()
    assert read["split"].fillna("").tolist() == frame["split"].fillna("").tolist()
    assert read["width"].tolist() == frame["width"].tolist()
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_numbers_of_a_table_may_be_missing(tmp_path):
    (tmp_path / "t.csv").write_text("id,width\na,3\nb,\nc,NaN\n")
    assert read_table(tmp_path / "t.csv")["width"].fillna(-1).tolist() == [3, -1, -1]


def test_numbers_in_text_columns_of_a_parquet_become_strings(tmp_path):
    pd.DataFrame({"id": [1, 2], "landmark_id": [7, 8]}).to_parquet(tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert read["id"].tolist() == ["1", "2"]
    assert read["landmark_id"].tolist() == ["7", "8"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read as a table"),
        ("name\na\n", r"no column id \(columns: name\)"),
        ("id\na\nb\na\n", "id 'a' is there more than once"),
        ("id,path\na,x.jpg\n,y.jpg\n", "row 2 has no id"),
        ("id,path\na,x.jpg\nb,\n", "row 2 has no path"),
        ("id,path\na,x.jpg\nb,/etc/passwd\n", "'/etc/passwd' leaves the data root"),
        ("id,path\na,../x.jpg\n", "leaves the data root"),
        ("id,path\na,x/../../y.jpg\n", "leaves the data root"),
        ("id,path\na,x\\..\\y.jpg\n", "leaves the data root"),
        ("id,path\na,\\\\host\\y.jpg\n", "leaves the data root"),
        ("id,path\na,C:/y.jpg\n", "leaves the data root"),
        ("id,split\na,train\nb,test\n", "split 'test' in row 2; choose train, query, gallery"),
        ("id,path\na,b,c\n", "more fields"),
        ("id,path\na,b\na,b,c\n", "cannot be read as a table"),
    ],
)
def test_a_wrong_table_is_a_mistake(tmp_path, text, words):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_dots_inside_a_name_stay_below_the_root(tmp_path):
    (tmp_path / "t.csv").write_text("id,path\na,x..y.jpg\nb,.hidden/a.jpg\nc,a\\b.jpg\n")
    assert len(read_table(tmp_path / "t.csv")) == 3


def test_files_that_are_no_tables_are_mistakes(tmp_path):
    for name, content in (
        ("t.parquet", b"PAR1 no"),
        ("t.csv", b"id\n\xff\xfe\n"),
        ("t.txt", b"id"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_frame(tmp_path / name)
    with pytest.raises(UserError, match=r"gone\.csv: no such file"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(UserError, match=r"t\.xlsx: a table is a \.csv or \.parquet"):
        write_table(pd.DataFrame({"id": ["a"]}), tmp_path / "t.xlsx")
    pd.DataFrame({"id": ["a", ""]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="row 2 has no id"):
        read_table(tmp_path / "t.parquet")

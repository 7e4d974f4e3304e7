"""Image tables are checked as they are read."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.table import read_frame, read_table
from landmark.error import UserError

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=6)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@settings(max_examples=15, deadline=None)
@given(ids=st.lists(TEXT | st.sampled_from(["NA", "null", "007", "1.0"]), unique=True))
def test_a_table_is_read_as_it_was_written(tmp_path_factory, ending, ids):
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
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    read = read_table(path)
    assert read["id"].tolist() == ids
    assert read["landmark_id"].tolist() == frame["landmark_id"].tolist()
    assert read["path"].tolist() == frame["path"].tolist()
    assert read["split"].fillna("").tolist() == frame["split"].fillna("").tolist()
    assert read["width"].tolist() == frame["width"].tolist()


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
        ("id\na\nb\na\n", "duplicate id 'a'"),
        ("id,path\na,x.jpg\n,y.jpg\n", "row 2 has no id"),
        ("id,path\na,x.jpg\nb,\n", "row 2 has no path"),
        ("id,path\na,x.jpg\nb,/etc/passwd\n", "'/etc/passwd' is outside the data root"),
        ("id,path\na,../x.jpg\n", "is outside the data root"),
        ("id,path\na,x/../../y.jpg\n", "is outside the data root"),
        ("id,path\na,x\\..\\y.jpg\n", "is outside the data root"),
        ("id,path\na,\\\\host\\y.jpg\n", "is outside the data root"),
        ("id,path\na,C:/y.jpg\n", "is outside the data root"),
        ("id,split\na,train\nb,test\n", "unknown split 'test' in row 2. Use train, query, gallery"),
        ("id,path\na,b,c\n", "more fields"),
        ("id,path\na,b\na,b,c\n", "cannot be read as a table"),
    ],
)
def test_an_invalid_table_is_refused(tmp_path, text, words):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_dots_inside_a_name_do_not_leave_the_root(tmp_path):
    (tmp_path / "t.csv").write_text("id,path\na,x..y.jpg\nb,.hidden/a.jpg\nc,a\\b.jpg\n")
    assert len(read_table(tmp_path / "t.csv")) == 3


def test_files_that_are_not_tables_are_refused(tmp_path):
    for name, content in (
        ("t.parquet", b"PAR1 no"),
        ("t.csv", b"id\n\xff\xfe\n"),
        ("t.txt", b"id"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_frame(tmp_path / name)
    with pytest.raises(UserError, match=r"gone\.csv does not exist"):
        read_table(tmp_path / "gone.csv")
    (tmp_path / "t.xlsx").touch()
    with pytest.raises(UserError, match=r"t\.xlsx is not a table\. Pass a \.csv or \.parquet"):
        read_table(tmp_path / "t.xlsx")
    pd.DataFrame({"id": ["a", ""]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="row 2 has no id"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("side", ["wide", "-3", "inf"])
def test_an_invalid_width_is_named(tmp_path, side):
    table = tmp_path / "t.csv"
    table.write_text(f"id,path,width,height\na,a.jpg,,0\nb,b.jpg,640,480\nc,c.jpg,{side},480\n")
    with pytest.raises(UserError, match=rf"t\.csv: width {side}(\.0)? in row 3 is not a number"):
        read_table(table)
    table.write_text("id,path,width,height\na,a.jpg,,0\nb,b.jpg,640,480\n")
    read = read_table(table)
    assert np.isnan(read["width"][0])
    assert read["width"][1] == 640
    assert read["height"].tolist() == [0, 480]

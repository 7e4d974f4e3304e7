"""Tables as people have them: every row is used, refused in one line, or counted."""

from unicodedata import normalize

import numpy as np
import pandas as pd
import pytest

from landmark.data import Table
from landmark.error import UserError

NFC, NFD = normalize("NFC", "café"), normalize("NFD", "café")
SPLITS = ["train", "train", "query", "gallery"]


@pytest.fixture
def rows() -> pd.DataFrame:
    """Return twelve rows of three landmarks; reading a table needs no photos."""
    listed = [(f"{m}{n}", f"{m}/{n}.jpg", m, SPLITS[n]) for m in "abc" for n in range(4)]
    return pd.DataFrame(listed, columns=["id", "path", "landmark_id", "split"])


def table(rows, folder, ending="parquet", **options) -> Table:
    file = folder / f"t.{ending}"
    rows.to_parquet(file) if ending == "parquet" else rows.to_csv(file, index=False, **options)
    return Table(folder, file.name)


def counts(source):
    return [len(source.read(split)) for split in (None, "train", "query", "gallery")]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("empty", [None, "  "])
def test_rows_without_a_split_are_read_with_all_and_counted(rows, tmp_path, ending, empty, capfd):
    rows.loc[[0, 2, 3], "split"] = empty
    source = table(rows, tmp_path, ending)
    assert counts(source) == [12, 5, 2, 2]
    assert set(source.read().rows["id"]) == set(rows["id"])
    said = f"{source.file}: 12 photos; without split: 3 (only split=null reads them)\n"
    assert capfd.readouterr().err == said  # once
    assert counts(table(rows.assign(split=None), tmp_path, ending)) == counts(
        table(rows.drop(columns="split"), tmp_path, ending)
    )


def test_a_table_is_relative_to_the_root_or_else_to_the_current_folder(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root" / "cleaned").mkdir(parents=True)
    (tmp_path / "cleaned").mkdir()
    rows.to_parquet("cleaned/table.parquet")
    source = Table("root", "cleaned/table.parquet")
    assert counts(source) == [12, 6, 3, 3]
    rows[:8].to_parquet("root/cleaned/table.parquet")
    assert counts(Table("root", "cleaned/table.parquet")) == [8, 4, 2, 2]
    with pytest.raises(UserError, match=r"root/no.csv does not exist. Set data.table."):
        Table("root", "no.csv").read()


def test_rows_without_a_landmark_are_used_and_counted(rows, tmp_path, capfd):
    rows.loc[[2, 3, 7], "landmark_id"] = [None, None, " "]
    source = table(rows, tmp_path)
    assert counts(source) == [12, 6, 3, 3]
    assert [len(part) for part in source.validation()] == [2, 3]
    words = "query without landmark_id: 1 (not validated); gallery without landmark_id: 2 (distra"
    assert words in capfd.readouterr().err
    source = table(rows.drop(columns="split"), tmp_path)
    assert len(source.read()) == 12
    assert {"a2", "a3", "b3"} <= set(source.read("gallery").rows["id"])
    assert "without landmark_id: 3 (used as gallery)" in capfd.readouterr().err
    rows.loc[0, "landmark_id"] = None
    source = table(rows, tmp_path)
    assert len(source.read()) == 12
    with pytest.raises(UserError, match=r"train photo a0 has no landmark_id \(1 such photos\)"):
        source.read("train")


def test_a_table_without_landmarks_can_be_described(rows, tmp_path):
    for frame in (rows, rows.assign(split="train"), rows.drop(columns="split")):
        source = table(frame.drop(columns="landmark_id"), tmp_path)
        assert sorted(source.read().rows["id"]) == sorted(rows["id"])
        assert len(source.validation()[0]) == 0
    with pytest.raises(UserError, match="Training needs it; to describe the photos, pass split=nu"):
        table(rows.drop(columns="landmark_id"), tmp_path).read("train")


def test_photos_held_out_for_validation_are_among_all(rows, tmp_path):
    source = table(rows.assign(split="train"), tmp_path)
    held = sum(len(part) for part in source.validation())
    assert held > 0
    assert len(source.read("train")) == 12 - held
    assert source.read().rows["split"].tolist() == ["train"] * 12


@pytest.mark.parametrize(
    "form",
    [
        "{root}/{folder}/{name}",
        "{root}//{folder}/./{name}",
        "{root.parent}/link/{folder}/{name}",
        "./{folder}/{name}",
        "{folder}//{name}",
        ".\\{folder}\\{name}",
    ],
)
def test_paths_below_the_root_become_relative(rows, tmp_path, form):
    root = tmp_path / "photos"
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    parts = [path.split("/") for path in rows["path"]]
    paths = [form.format(root=root, folder=folder, name=name) for folder, name in parts]
    table(rows.assign(path=paths), root)
    source = Table(tmp_path / "link", "t.parquet")
    assert sorted(source.read().rows["path"]) == sorted(rows["path"])


def test_a_name_that_contains_a_backslash_is_kept(rows, tmp_path):
    (tmp_path / "a\\0.jpg").write_bytes(b"")
    rows.loc[0, "path"] = "a\\0.jpg"
    rows.loc[1, "path"] = "a\\1.jpg"
    assert set(table(rows, tmp_path).read().rows["path"][:2]) == {"a\\0.jpg", "a/1.jpg"}


def test_paths_outside_the_root_are_refused(rows, tmp_path):
    for path in (
        f"{tmp_path}x/0.jpg",
        "/etc/passwd",
        "C:\\photos\\0.jpg",
        "..\\0.jpg",
        "a/../../x",
    ):
        rows.loc[3, "path"] = path
        with pytest.raises(UserError, match="is outside the data root"):
            table(rows, tmp_path).read()


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("id", np.arange(97.0, 109), [str(n) for n in range(97, 109)]),
        ("id", np.arange(97, 109, dtype=np.float32), [str(n) for n in range(97, 109)]),
        ("id", np.arange(97, 109), [str(n) for n in range(97, 109)]),
        ("id", np.arange(12) + 0.5, [f"{n}.5" for n in range(12)]),
        ("id", [f"p{n}".encode() for n in range(12)], [f"p{n}" for n in range(12)]),
        ("id", pd.Categorical(list("abcdefghijkl")), list("abcdefghijkl")),
        ("landmark_id", [97.0] * 4 + [np.nan] * 8, ["97"] * 4 + [None] * 8),
        ("landmark_id", pd.array([5, None, 6] * 4, "Int64"), ["5", None, "6"] * 4),
        ("landmark_id", pd.Categorical([5, None, 6] * 4), ["5", None, "6"] * 4),
        ("landmark_id", pd.Categorical(["x", None, "y"] * 4), ["x", None, "y"] * 4),
        ("landmark_id", ["97.0"] * 8 + [None] * 4, ["97"] * 8 + [None] * 4),
        ("landmark_id", ["97.0"] * 8 + ["97.5"] * 4, ["97.0"] * 8 + ["97.5"] * 4),
        ("landmark_id", [" x", "x ", NFC, NFD] * 3, ["x", "x", NFC, NFC] * 3),
    ],
)
def test_numbers_and_categories_become_plain_text(rows, tmp_path, column, values, expected):
    rows[column] = values
    read = table(rows.drop(columns="split"), tmp_path).read().rows
    read = read.set_index("path")[column][rows["path"]]
    assert read.astype(object).where(read.notna(), None).tolist() == expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            np.arange(12) + 2.0**60,
            "column id has floats of 9007199254740992 or more, which have lo",
        ),
        ((np.arange(12) + 2**25).astype(np.float32), "column id has floats of 16777216 or more"),
        ([f"p{n}é".encode("latin-1") for n in range(12)], "is not UTF-8"),
        ([["p", str(n)] for n in range(12)], "column id has lists. Save it as text."),
        (["x\ny", *"bcdefghijkl"], r"id 'x\ny' in row 1 contains a line break"),
        ([NFC, NFD, *"cdefghijkl"], r"the ids 'caf\xe9' and 'cafe\u0301' are one name in two Unic"),
    ],
)
def test_ids_that_are_no_names_are_refused(rows, tmp_path, values, reason):
    with pytest.raises(UserError) as caught:
        table(rows.assign(id=values), tmp_path).read()
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "t.parquet"))


def test_columns_may_be_in_another_case_or_the_index(rows, tmp_path):
    rows["id"] = [f"{n:03d}" for n in range(12)]  # text, not numbers
    names = {"id": "ID", "path": " Path", "landmark_id": "Landmark_ID", "split": "Split"}
    for ending in ("csv", "parquet"):
        read = table(rows.rename(columns=names), tmp_path, ending).read().rows
        assert sorted(read["id"]) == sorted(rows["id"])
        assert set(read) == set(rows)
    assert len(table(rows.set_index("id"), tmp_path).read()) == 12
    both = rows.assign(ID="other")
    assert sorted(table(both, tmp_path).read().rows["id"]) == sorted(rows["id"])


def test_paths_are_looked_up_in_the_unicode_form_of_the_disk(rows, tmp_path):
    for name in (NFC, NFD):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "0.jpg").write_bytes(b"")
    rows.loc[0, "path"] = f"{NFC}/{NFC}/0.jpg"
    rows.loc[1, "path"] = f"{NFD}/{NFD}/0.jpg"
    rows.loc[2, "path"] = f"{NFC}/gone.jpg"
    assert set(rows["path"]) == set(table(rows, tmp_path).read().rows["path"])
    (tmp_path / NFC / NFC / "0.jpg").unlink()
    (tmp_path / NFC / NFC).rmdir()
    (tmp_path / NFC).rmdir()
    read = table(rows.drop(1), tmp_path).read().rows["path"]
    assert f"{NFD}/{NFD}/0.jpg" in set(read)

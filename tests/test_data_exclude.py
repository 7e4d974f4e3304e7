"""data.exclude leaves photos and landmarks out of train; the splits of the others stay."""

import pandas as pd
import pytest
from miniature import google_landmarks

from landmark.data import Folder, GLDv2, Table
from landmark.data.run_splits import RunSplits, write_split_table
from landmark.error import UserError


@pytest.fixture
def photos(tmp_path):
    for landmark in "abcdefgh":
        (tmp_path / "photos" / landmark).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "photos" / landmark / f"{landmark}{number}.jpg").write_bytes(b"")
    return tmp_path / "photos"


def listed(tmp_path, **columns):
    pd.DataFrame(columns).to_csv(tmp_path / "exclude.csv", index=False)
    return tmp_path / "exclude.csv"


def splits_of(source):
    return {split: set(source.read(split).rows["id"]) for split in ("train", "query", "gallery")}


def test_photos_and_landmarks_are_left_out_of_train_alone(photos, tmp_path, capsys):
    plain = splits_of(Folder(photos))
    out = [*sorted(plain["train"])[:2], "b/none.jpg"]
    file = listed(tmp_path, id=[*out, None], landmark_id=["x", None, None, "h"])
    capsys.readouterr()
    found = splits_of(Folder(photos, exclude=file))
    expected = {name for name in plain["train"] - set(out) if not name.startswith("h/")}
    assert found == {**plain, "train": expected}
    said = capsys.readouterr().err
    count = len(plain["train"]) - len(expected)
    assert f"{count} of {len(plain['train'])} train photos are left out" in said
    assert "not in train: 1 photos, such as b/none.jpg" in said
    assert "landmarks" not in said.partition("not in train")[2]


def test_held_out_photos_are_drawn_as_without_the_list(photos, tmp_path):
    plain = Folder(photos, validation="train")
    file = listed(tmp_path, landmark_id=["a", "zebra"])
    source = Folder(photos, validation="train", exclude=file)
    for before, after in zip(plain.validation(), source.validation(), strict=True):
        remaining = before.rows[before.rows["landmark_id"] != "a"]["id"]
        assert after.rows["id"].tolist() == remaining.tolist()
    assert "a" not in source.read("train").landmarks
    assert "a" not in set(source.read().rows.query("split == 'train'")["landmark_id"])


def test_a_run_keeps_its_exclusions_without_the_file(photos, tmp_path, capsys):
    file = listed(tmp_path, landmark_id=["a"])
    source = Folder(photos, validation="train", exclude=file)
    expected = splits_of(source)
    write_split_table(tmp_path / "splits.parquet", source.split_table(), source.root)
    file.unlink()
    for options in ({"exclude": file}, {}, {"exclude": file, "validation": "splits"}):
        again = Folder(photos, **{"validation": "train", **options})
        again.splitter.run = RunSplits(tmp_path / "splits.parquet")
        assert splits_of(again)["train"] >= expected["train"]
        assert "a" not in again.read("train").landmarks
    assert "does not exist" in capsys.readouterr().err
    assert "a" not in set(again.splitter.run.held_out_landmarks)


def test_gldv2_and_tables_take_the_list(tmp_path):
    root = google_landmarks(tmp_path / "toy", tmp_path / "gldv2", folders=True)
    options = {"validation_landmarks": 0}
    rows = GLDv2(root, **options).read("train").rows
    file = listed(tmp_path, id=rows["id"].iloc[:3])
    assert GLDv2(root, exclude=file, **options).read("train").rows["id"].tolist() == (
        rows["id"].iloc[3:].tolist()
    )
    rows.assign(split="train").to_csv(tmp_path / "table.csv", index=False)
    source = Table(root, tmp_path / "table.csv", validation="none", exclude=file)
    assert len(source.read("train")) == len(rows) - 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("name\na\n", "has no column id or landmark_id"),
        ("id,landmark_id\na/a0.jpg,\n,\n", "row 2 has no id or landmark_id"),
        ("landmark_id\n" + "\n".join("abcdefgh"), "leaves no photo to train on"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(photos, tmp_path, text, message):
    file = tmp_path / "exclude.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        Folder(photos, exclude=file).read("train")
    assert "\n" not in str(error.value)

"""Folders and tables of photos, and the sizes of photos."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from miniature import toy, with_fixed_splits
from test_configs import choices, node

from landmark.cli._signature import read_signature
from landmark.data import Folder, ImageTable, Table, size_cache
from landmark.error import UserError
from landmark.image import ImageFormat, read_size

# Where a YAML differs from its constructor's defaults.
OVERRIDES = {"gldv1": {"photos"}, "gldv2_clean": {"clean"}, "rparis6k": set()}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> ImageTable:
    table = toy(tmp_path_factory.mktemp("toy")).read()
    return ImageTable(table.root, with_fixed_splits(table.rows))


@pytest.fixture
def photos(world, tmp_path) -> Path:
    """Write a folder of six landmarks with eight photos each."""
    return Path(shutil.copytree(world.root, tmp_path / "photos"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANDMARK_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("choice", choices("data"))
def test_yaml_lists_the_constructors_keys_and_defaults(choice):
    content = dict(node("data", choice).items_ex(resolve=False))
    parameters = read_signature(content.pop("_target_")).parameters
    assert content.keys() == parameters.keys()
    for name, parameter in parameters.items():
        if name not in OVERRIDES.get(choice, ()):
            assert content[name] == ("???" if parameter.required else parameter.default)


def test_folder_reads_only_photos(photos):
    (photos / "0" / ".hidden.jpg").write_bytes(b"")
    (photos / "0" / "notes.txt").write_text("no photo")
    (photos / ".git").mkdir()
    (photos / "loose.jpg").write_bytes(b"")
    (photos / "0" / "0.jpg").rename(photos / "0" / "my photo 100%.JPEG")
    table = Folder(photos).read()
    assert len(table) == 48
    assert set(table.landmarks) == set("012345")
    row = table.rows.set_index("path").loc["0/my photo 100%.JPEG"]
    assert row["id"] == "0/my%20photo%20100%25.JPEG"
    assert not table.rows["id"].str.contains(r"\s").any()


def test_folder_splits_from_a_list(photos, tmp_path):
    paths = Folder(photos).read().rows["path"].sort_values()
    listing = pd.DataFrame({"path": paths, "split": ["query", "gallery", "train", "train"] * 12})
    listing.to_csv(photos / "splits.csv", index=False)
    source = Folder(photos)
    expected = listing.set_index("path")["split"]
    rows = source.read().rows
    assert rows["split"].tolist() == expected[rows["path"]].tolist()
    query, gallery = source.validation()
    assert len(query) == len(gallery) == 12
    held = Folder(photos, validation="train")
    query, gallery = held.validation()
    train = held.read("train")
    assert len(train) + len(query) + len(gallery) == 24
    assert set(expected[pd.concat([query.rows, gallery.rows])["path"]]) == {"train"}
    assert not set(query.rows["id"]) & set(train.rows["id"])
    assert len(held.read("query")) == 12
    assert [len(table) for table in Folder(photos, validation="none").validation()] == [0, 0]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "splits.csv"),
        ("path,part\n", "has no column split"),
        ("path,split\n0/0.jpg,test\n", "0/0.jpg has split 'test'. Use one of train, query"),
        ("path,split\n0/0.jpg,\n", "0/0.jpg has split ''"),
        ("path,split\n0/0.jpg,train\n0/0.jpg,query\n", "lists 0/0.jpg more than once"),
        ("path,split\n0/gone.jpg,train\n", r"lists 0/gone.jpg, which does not exist \(1 such"),
        ("path,split\n0/0.jpg,train\n", r"does not list 0/1.jpg \(47 such photos\)"),
    ],
)
def test_folder_splits_with_errors(photos, content, match):
    (photos / "splits.csv").write_text(content)
    with pytest.raises(UserError, match=match):
        Folder(photos).read()


def test_folders_without_photos(tmp_path):
    with pytest.raises(UserError, match=r"is not a folder\. Set data\.root"):
        Folder(tmp_path / "gone").read()
    with pytest.raises(UserError, match=r"contains no photos\. Put them at"):
        Folder(tmp_path).read()


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"validation": "some"}, "validation=some is not valid. Pass one of splits, train, none"),
        ({"bad_image": "maybe"}, "bad_image=maybe is not valid. Pass one of error, skip"),
        ({"query_fraction": 1.0}, "query_fraction=1.0 is not valid. Pass a number >= 0 and < 1"),
        ({"gallery_fraction": -0.1}, "gallery_fraction=-0.1 is not valid"),
        ({"most_frequent": 0}, "most_frequent=0 is not valid"),
        ({"min_photos": 0}, "min_photos=0 is not valid"),
        ({"max_photos": "3"}, "max_photos=3 is not valid"),
        ({"seed": -1}, "seed=-1 is not valid"),
    ],
)
def test_options_are_checked_before_reading(tmp_path, option, match):
    for make in (Folder, Table, partial(toy)):
        with pytest.raises(UserError, match=match):
            make(tmp_path, **option)


def test_an_unknown_option_is_refused(tmp_path):
    with pytest.raises(TypeError, match="max_photo"):
        Folder(tmp_path, max_photo=3)


def test_unknown_and_empty_splits(photos):
    for name in ("1", "2", "3", "4", "5"):
        shutil.rmtree(photos / name)
    for path in sorted((photos / "0").iterdir())[2:]:
        path.unlink()
    source = Folder(photos)
    assert len(source.read("train")) == 2
    with pytest.raises(UserError, match=r"split=test does not exist\. Pass one of train, query"):
        source.read("test")
    with pytest.raises(UserError, match="contains no query photos"):
        source.read("query")
    assert [len(table) for table in source.validation()] == [0, 0]
    with pytest.raises(UserError, match="no train photo passes the filters"):
        Folder(photos, min_photos=3).read("train")


def test_splits_of_the_shared_photos(shared):
    source = Folder(shared / "photos")
    counts = {split: len(source.read(split)) for split in ("train", "query", "gallery")}
    assert counts == {"train": 470, "query": 146, "gallery": 312}
    assert len(source.read("train").landmarks) == 29


def write_table(frame, path):
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_table(world, tmp_path, ending):
    rows = world.rows.rename(columns={"id": "old"}).assign(id=[f"p{n}" for n in range(48)])
    write_table(rows[["id", "path", "landmark_id", "split"]], tmp_path / f"table.{ending}")
    source = Table(world.root, tmp_path / f"table.{ending}", max_photos=2)
    assert len(source.read("train")) == 12
    assert [len(table) for table in source.validation()] == [6, 12]
    write_table(rows[["id", "path"]], tmp_path / f"table.{ending}")
    source = Table(world.root, tmp_path / f"table.{ending}")
    assert len(source.read("gallery")) == 48
    with pytest.raises(UserError, match="contains no train photos"):
        source.read("train")
    write_table(rows[["id", "path"]].assign(split="train"), tmp_path / f"table.{ending}")
    with pytest.raises(UserError, match="has no column landmark_id"):
        Table(world.root, tmp_path / f"table.{ending}").read("train")
    with pytest.raises(UserError, match=r"gone.csv does not exist. Set data\.table"):
        Table(world.root, "gone.csv").read()


def test_without_splits_photos_without_landmark_are_gallery(world, tmp_path):
    rows = world.rows[["id", "path", "landmark_id"]].copy()
    rows.loc[rows.index[:5], "landmark_id"] = None
    write_table(rows, tmp_path / "table.parquet")
    source = Table(world.root, tmp_path / "table.parquet")
    assert set(rows["id"][:5]) <= set(source.read("gallery").rows["id"])
    labelled = Table(world.root, tmp_path / "labelled.parquet")
    write_table(rows[5:], labelled.file)
    assert source.read("train").rows["id"].tolist() == labelled.read("train").rows["id"].tolist()


def test_a_query_without_landmark_is_not_validated(world, tmp_path):
    rows = world.rows[["id", "path", "landmark_id", "split"]].copy()
    for split in ("query", "gallery"):
        rows.loc[rows.index[rows["split"] == split][0], "landmark_id"] = None
    write_table(rows, tmp_path / "table.parquet")
    query, gallery = Table(world.root, tmp_path / "table.parquet").validation()
    assert (len(query), len(gallery)) == (5, 12)


def test_sizes_are_cached_until_a_photo_changes(photos, monkeypatch):
    table = Folder(photos).read()
    read = []
    monkeypatch.setattr(size_cache, "read_size", lambda path: read.append(path) or read_size(path))
    rows = table.with_sizes().rows
    expected = [read_size(photos / path) for path in rows["path"]]
    assert list(zip(rows["width"], rows["height"], strict=True)) == expected
    assert len(read) == 48
    table.with_sizes()
    Folder(photos).read("train").with_sizes()
    assert len(read) == 48
    changed = photos / rows["path"].iloc[7]
    shutil.copyfile(photos / rows["path"].iloc[20], changed)
    assert table.with_sizes().rows["width"].iloc[7] == read_size(changed)[0]
    assert len(read) == 49
    assert table.with_sizes().with_sizes().digest == table.with_sizes().digest
    (photos / rows["path"].iloc[3]).unlink()
    with pytest.raises(UserError, match="does not exist"):
        table.with_sizes()


def test_known_sizes_are_not_read_again(world):
    rows = world.rows.assign(width=30, height=[10, 20] * 24)
    rows.loc[5, "height"] = 0
    table = ImageTable(world.root, rows).with_sizes()
    assert table.rows["height"].tolist()[:5] == [10, 20, 10, 20, 10]
    assert table.rows["height"].iloc[5] == read_size(world.root / rows["path"].iloc[5])[1]


def test_groups_of_one_size_need_no_file():
    table = ImageTable(Path("gone"), pd.DataFrame({"id": ["a"], "path": ["a.jpg"]}))
    assert np.array_equal(table.groups(ImageFormat([[64, 64]])), [0])


def test_tables_are_read_without_torch(world):
    program = (
        "import sys; from landmark.data import Folder; Folder(sys.argv[1]).read()\n"
        "assert not {'torch', 'pytorch_lightning'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(world.root)], check=True)

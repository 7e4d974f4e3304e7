"""Photos of one's own: folders, tables, the toy world, and the sizes of photos."""

import inspect
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from miniature import LANDMARKS, PHOTOS, toy

from landmark import data
from landmark.data import Folder, ImageTable, Table, size_cache
from landmark.error import UserError
from landmark.image import ImageFormat, read_size

CONF = Path(__file__).resolve().parents[1] / "conf" / "data"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> ImageTable:
    return toy(tmp_path_factory.mktemp("toy")).read()


@pytest.fixture
def photos(world, tmp_path) -> Path:
    """A folder of one's own: six landmarks of eight photos."""
    return Path(shutil.copytree(world.root, tmp_path / "photos"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANDMARK_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_yaml_holds_the_constructor(path):
    content = yaml.safe_load(path.read_text())
    source = getattr(data, content.pop("_target_").removeprefix("landmark.data."))
    parameters = inspect.signature(source).parameters
    assert content.keys() == parameters.keys()
    for name, parameter in parameters.items():
        missing = parameter.default is inspect.Parameter.empty
        assert content[name] == ("???" if missing else parameter.default)


def test_toy_world_is_the_same_for_a_seed(world, tmp_path):
    again, other = toy(tmp_path).read(), toy(tmp_path, seed=1).read()
    assert len(world) == LANDMARKS * PHOTOS
    assert again.digest == world.digest
    for path in world.rows["path"]:
        assert (again.root / path).read_bytes() == (world.root / path).read_bytes()
    first = world.rows["path"].iloc[0]
    assert (other.root / first).read_bytes() != (world.root / first).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [again.root.name, other.root.name]
    )
    assert world.rows["split"].value_counts().to_dict() == {"train": 30, "gallery": 12, "query": 6}


def test_toy_photos_of_a_landmark_do_not_depend_on_how_many_there_are(world, tmp_path):
    fewer = toy(tmp_path, photos=2, landmarks=3, styles=3).read()
    path = fewer.rows["path"].iloc[0]
    assert (fewer.root / path).read_bytes() == (world.root / path).read_bytes()


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


def test_folder_splits_listed(photos, tmp_path):
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
        ("path,part\n", "no column split"),
        ("path,split\n0/0.jpg,test\n", "the split of 0/0.jpg is 'test'"),
        ("path,split\n0/0.jpg,train\n0/0.jpg,query\n", "0/0.jpg stands there twice"),
        ("path,split\n0/gone.jpg,train\n", "0/gone.jpg is not there"),
        ("path,split\n0/0.jpg,train\n", "0/1.jpg is missing"),
    ],
)
def test_folder_splits_with_mistakes(photos, content, match):
    (photos / "splits.csv").write_text(content)
    with pytest.raises(UserError, match=match):
        Folder(photos).read()


def test_folders_without_photos(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        Folder(tmp_path / "gone").read()
    with pytest.raises(UserError, match="no photos; they belong at"):
        Folder(tmp_path).read()
    with pytest.raises(UserError, match=r"data.validation=some: choose one of splits"):
        Folder(tmp_path, validation="some")


def test_unknown_and_empty_splits(photos):
    for name in ("1", "2", "3", "4", "5"):
        shutil.rmtree(photos / name)
    for path in sorted((photos / "0").iterdir())[2:]:
        path.unlink()
    source = Folder(photos)
    assert len(source.read("train")) == 2
    with pytest.raises(UserError, match="choose one of train, query, gallery"):
        source.read("test")
    with pytest.raises(UserError, match="no query photos"):
        source.read("query")
    assert [len(table) for table in source.validation()] == [0, 0]
    with pytest.raises(UserError, match="no train photo passes"):
        Folder(photos, min_photos=3).read("train")


def test_real_splits(shared):
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
    with pytest.raises(UserError, match="no train photos"):
        source.read("train")
    write_table(rows[["id", "path"]].assign(split="train"), tmp_path / f"table.{ending}")
    with pytest.raises(UserError, match="no column landmark_id"):
        Table(world.root, tmp_path / f"table.{ending}").read("train")
    with pytest.raises(UserError, match=r"no such file; set data\.table"):
        Table(world.root, "gone.csv").read()


def test_a_query_without_landmark_is_not_validated(world, tmp_path):
    rows = world.rows[["id", "path", "landmark_id", "split"]].copy()
    for split in ("query", "gallery"):
        rows.loc[rows.index[rows["split"] == split][0], "landmark_id"] = None
    write_table(rows, tmp_path / "table.parquet")
    query, gallery = Table(world.root, tmp_path / "table.parquet").validation()
    assert (len(query), len(gallery)) == (5, 12)


def test_sizes_are_remembered_until_a_photo_changes(photos, monkeypatch):
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
    with pytest.raises(UserError, match="no such photo"):
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

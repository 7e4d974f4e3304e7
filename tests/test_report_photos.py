"""Paths of photos: in the root of a store, or from the data source."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from landmark.artifact.descriptors import DescriptorStore
from landmark.data.image_table import ImageTable
from landmark.error import UserError
from landmark.report.photos import Photo, StorePhotos, TablePhotos
from landmark.report.thumbnail import data_uris, thumbnail

IDS = ["a", "b", "c", "d"]
BOX = ("box_left", "box_top", "box_right", "box_bottom")


def store_of(folder, root=None, landmarks=None, **columns):
    """Write a store of four rows with additional columns."""
    DescriptorStore.write(folder, IDS, np.eye(4, dtype="f4"), landmarks)
    if columns:
        rows = pd.read_parquet(folder / "ids.parquet").assign(**columns)
        rows.to_parquet(folder / "ids.parquet", index=False)
    if root is not None:
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(meta | {"root": str(root)}))
    return DescriptorStore.open(folder)


def photo(path, size=(40, 30), colour=(9, 9, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def test_a_store_with_paths_of_its_photos(tmp_path):
    root = tmp_path / "photos"
    one = photo(root / "x/1.jpg")
    store = store_of(
        tmp_path / "store",
        root,
        ["p", None, "q", "q"],
        path=["x/1.jpg", "x/2.jpg", "../outside.jpg", str(one)],
        **dict(zip(BOX, ([1.0, np.nan] * 2, [2.0] * 4, [30.0] * 4, [20.0] * 4), strict=True)),
    )
    photo(tmp_path / "outside.jpg")
    found = StorePhotos(store).entries(np.array([3, 2, 1, 0]))
    assert [entry.id for entry in found] == ["d", "c", "b", "a"]
    assert [entry.landmark for entry in found] == ["q", "q", "", "p"]
    # A path outside the root shows no photo.
    assert [entry.photo for entry in found] == [
        None,
        None,
        Photo(root / "x/2.jpg"),
        Photo(one, (1.0, 2.0, 30.0, 20.0)),
    ]


def test_a_store_without_paths(tmp_path):
    photos = StorePhotos(store_of(tmp_path / "store"))
    found = photos.entries(np.array([1, 2]))
    assert len(photos) == 4
    assert [(one.id, one.landmark, one.photo) for one in found] == [
        ("b", "", None),
        ("c", "", None),
    ]
    without_root = store_of(tmp_path / "other", path=["x"] * 4)
    assert StorePhotos(without_root).entries(np.array([0]))[0].photo is None


def test_the_data_source_provides_missing_paths(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    recorded, listed = photo(here / "a.jpg"), photo(there / "b.jpg")
    store = store_of(
        tmp_path / "store", here, ["old"] * 4, path=["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    )
    rows = pd.DataFrame(
        {
            "id": ["d", "b", "a"],
            "path": ["d.jpg", "b.jpg", "a.jpg"],
            "landmark_id": ["1", "2", None],
        }
    )
    table = ImageTable(there, rows)
    a, b, c, d = StorePhotos(store, table).entries(np.arange(4))
    assert (a.photo.path, a.landmark) == (recorded, "")
    assert (b.photo.path, b.landmark) == (listed, "2")
    assert (c.photo.path, c.landmark) == (here / "c.jpg", "")  # a missing file keeps its path
    assert (d.photo.path, d.landmark) == (here / "d.jpg", "1")


def test_rows_of_a_table(tmp_path):
    rows = pd.DataFrame(
        {"id": IDS, "path": [f"{one}.jpg" for one in IDS], "landmark_id": IDS[::-1]}
    )
    table = ImageTable(tmp_path, rows)
    found = TablePhotos(table).entries(np.array([2, 0]))
    assert [(one.id, one.landmark) for one in found] == [("c", "b"), ("a", "d")]
    assert [one.photo.path.name for one in found] == ["c.jpg", "a.jpg"]
    some = TablePhotos(table, rows=np.array([3, 1]))
    assert len(some) == 2
    assert [one.id for one in some.entries(np.array([1, 0, 1]))] == ["b", "d", "b"]


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((400, 300), None, (100, 75)),
        ((300, 1200), None, (25, 100)),
        ((40, 30), None, (40, 30)),
        ((8, 8), None, (8, 8)),
        ((3000, 8), None, (100, 1)),
        ((400, 300), (100.0, 50.0, 300.0, 100.0), (100, 25)),
    ],
)
def test_thumbnails_keep_proportions(tmp_path, size, box, expected):
    assert thumbnail(Photo(photo(tmp_path / "p.png", size), box), 100).size == expected


def test_a_boxed_thumbnail_shows_the_box(tmp_path):
    image = Image.new("RGB", (600, 400), (250, 250, 250))
    image.paste((10, 120, 30), (320, 160, 480, 240))
    image.save(tmp_path / "p.jpg", quality=95)
    shown = np.asarray(thumbnail(Photo(tmp_path / "p.jpg", (320.0, 160.0, 480.0, 240.0)), 64))
    assert np.abs(shown[4:-4, 4:-4].astype(int) - (10, 120, 30)).max() < 12


def test_photos_that_cannot_be_shown_give_the_reason(tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    (tmp_path / "empty.jpg").touch()
    names = ["gone.jpg", "text.jpg", "empty.jpg"]
    made = data_uris([None, *(Photo(tmp_path / name) for name in names)], 64)
    assert all(isinstance(one, UserError) for one in made)
    for one, word in zip(made, ["does not record", *names], strict=True):
        assert word in str(one)

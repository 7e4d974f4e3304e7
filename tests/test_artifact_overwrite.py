"""Overwriting replaces an artifact, never a folder of other things; settings are checked first."""

import numpy as np
import pytest

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.artifact.table import read_table
from landmark.disk.atomic import atomic_folder, check_can_write
from landmark.error import UserError

UNIT = np.eye(1, 4, dtype="float32")


def write_store(path):
    DescriptorStore.write(path, ["a"], UNIT, overwrite=True)


def write_rankings(path):
    names = np.array(["a"])
    scores = np.zeros((1, 1), np.float32)
    Rankings(np.zeros((1, 1), np.int32), scores, names, names).write(path, overwrite=True)


@pytest.mark.parametrize("write", [write_store, write_rankings])
def test_a_folder_of_photos_is_never_overwritten(tmp_path, write):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_text("precious")
    with pytest.raises(UserError, match=r"photos contains other files and no meta\.json"):
        write(photos)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert (photos / "a.jpg").read_text() == "precious"
    for place in (tmp_path / "new", tmp_path / "new"):
        write(place)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert (tmp_path / "empty" / "meta.json").is_file()


def test_a_marker_is_asked_for_only_where_something_lies(tmp_path):
    check_can_write(tmp_path, marker="meta.json")
    check_can_write(tmp_path / "none", marker="meta.json")
    (tmp_path / "meta.json").write_text("{}")
    check_can_write(tmp_path, overwrite=True, marker="meta.json")
    with pytest.raises(UserError, match="overwrite=true to replace it"):
        check_can_write(tmp_path, marker="meta.json")


def finish_late(place):
    with atomic_folder(place) as temporary:
        (temporary / "mine").write_text("late")
        place.mkdir()
        (place / "theirs").write_text("first")


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path):
    with pytest.raises(UserError, match="already exists"):
        finish_late(tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("meta", "error", "words"),
    [
        ({"scale": {1, 2}}, TypeError, "not JSON serializable"),
        ({"schema": 9}, ValueError, "schema is recorded by the store itself"),
    ],
)
def test_settings_that_cannot_be_recorded_stop_before_the_vectors(tmp_path, meta, error, words):
    with (
        pytest.raises(error, match=words),
        DescriptorStore.writing(tmp_path / "s", ["a"], 4, **meta),
    ):
        pytest.fail("the block must not be entered")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("side", ["wide", "-3", "inf"])
def test_a_width_that_is_no_number_of_pixels_is_named(tmp_path, side):
    table = tmp_path / "t.csv"
    table.write_text(f"id,path,width,height\na,a.jpg,,0\nb,b.jpg,640,480\nc,c.jpg,{side},480\n")
    with pytest.raises(UserError, match=rf"t\.csv: width {side}(\.0)? in row 3 is no number"):
        read_table(table)
    table.write_text("id,path,width,height\na,a.jpg,,0\nb,b.jpg,640,480\n")
    read = read_table(table)
    assert np.isnan(read["width"][0])
    assert read["width"][1] == 640
    assert read["height"].tolist() == [0, 480]

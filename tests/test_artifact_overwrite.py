"""Overwriting replaces an artifact, never a folder of other things; meta is checked first."""

import numpy as np
import pytest

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.whitening import Whitening
from landmark.error import UserError

UNIT = np.eye(1, 4, dtype="float32")


def write_store(path):
    DescriptorStore.write(path, ["a"], UNIT, overwrite=True)


def write_whitening(path):
    Whitening(np.zeros(4), np.eye(4), {}).write(path, overwrite=True)


@pytest.mark.parametrize(
    ("write", "marker"), [(write_store, "meta.json"), (write_whitening, "whitening.json")]
)
def test_a_folder_of_photos_is_never_overwritten(tmp_path, write, marker):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_text("precious")
    with pytest.raises(UserError, match=f"photos contains other files and no {marker}"):
        write(photos)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert (photos / "a.jpg").read_text() == "precious"
    for path in (tmp_path / "new", tmp_path / "new"):
        write(path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert (tmp_path / "empty" / marker).is_file()


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

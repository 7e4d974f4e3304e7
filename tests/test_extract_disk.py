"""A full or read-only disk is one line and leaves no partial output."""

import os

import numpy as np
import pytest
from extraction_world import PHOTOS, UnreadablePhotos, extract, files_of, write_world

from landmark.artifact.descriptors import DescriptorStore
from landmark.disk.lock import staging_folder
from landmark.disk.space import DiskFullError
from landmark.error import UserError
from landmark.extract import extraction

KIB = 1024


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def fill(disk, leaving):
    """Fill the file system up to some bytes."""
    status = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - leaving))


def test_a_store_that_does_not_fit_on_the_disk_is_not_started(disk):
    vectors = np.eye(200, dtype=np.float32)  # 156 KiB
    with pytest.raises(
        DiskFullError, match=r"disk/s/vectors\.npy does not fit on the disk \(No space"
    ):
        DescriptorStore.write(disk / "s", [f"{row}" for row in range(200)], vectors)
    assert list(disk.iterdir()) == []


def test_an_extraction_that_does_not_fit_on_the_disk_is_not_started(world, disk):
    fill(disk, leaving=0)
    with pytest.raises(DiskFullError, match=r"disk/s/vectors\.npy does not fit on the disk"):
        extract(world, disk / "s")
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_an_extraction_resumes_after_a_full_disk_at_its_end(world, disk, monkeypatch):
    from landmark.artifact import partial_store

    write = partial_store.write_description

    def after_disk_filled(*arguments):
        fill(disk, leaving=0)
        write(*arguments)

    with monkeypatch.context() as context:
        context.setattr(partial_store, "write_description", after_disk_filled)
        with pytest.raises(DiskFullError, match=r"s does not fit on the disk.*Free some space"):
            extract(world, disk / "s")
    assert not (disk / "s").exists()
    (disk / "filler").unlink()
    monkeypatch.setattr(extraction, "describe", lambda *_, **__: iter(()))  # all photos are done
    extract(world, disk / "s")
    assert files_of(disk / "s") == files_of(world / "complete")


def test_a_full_disk_while_skipping_photos_keeps_the_finished_rows(world, disk, monkeypatch):
    monkeypatch.setattr(UnreadablePhotos, "bad", frozenset(["001"]))
    monkeypatch.setattr(extraction, "ScaledPhotoDataset", UnreadablePhotos)
    # Room for the vectors, the marks and the settings, a page each, and two folders.
    fill(disk, leaving=20 * KIB)
    with pytest.raises(DiskFullError):
        extract(world, disk / "s")
    assert not (disk / "s").exists()
    assert staging_folder(disk / "s").exists()
    (disk / "filler").unlink()
    extract(world, disk / "s")
    assert len(DescriptorStore.open(disk / "s")) == PHOTOS - 1
    assert [path.name for path in disk.iterdir()] == ["s"]


def test_an_unwritable_output_is_one_line(world, read_only, tmp_path):
    with pytest.raises(UserError, match=r"disk/s cannot be written \(Read-only file system\)"):
        extract(world, read_only / "s")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/s cannot be written \(Not a directory\)"):
        extract(world, tmp_path / "file" / "s")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "file"]

"""A disk that is full or cannot be written is one clear line, and nothing half-written stays."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from extraction_world import PHOTOS, WithoutPhotos, extract, files_of, write_world

from landmark.artifact.descriptors import DescriptorStore
from landmark.disk.lock import staging_folder
from landmark.disk.space import DiskFullError, disk_errors, reserve
from landmark.error import UserError
from landmark.extract import extraction

KIB = 1024


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


def fill(disk, leaving):
    """Fills the file system but for some bytes."""
    status = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - leaving))


def test_a_store_that_does_not_fit_is_not_begun(disk):
    vectors = np.eye(200, dtype=np.float32)  # 156 KiB
    with pytest.raises(
        DiskFullError, match=r"disk/s/vectors\.npy does not fit on the disk \(No space"
    ):
        DescriptorStore.write(disk / "s", [f"{row}" for row in range(200)], vectors)
    assert list(disk.iterdir()) == []


def test_an_extraction_that_does_not_fit_is_not_begun(world, disk):
    fill(disk, leaving=0)
    with pytest.raises(DiskFullError, match=r"disk/s/vectors\.npy does not fit on the disk"):
        extract(world, disk / "s")
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_an_extraction_that_the_disk_stops_at_its_end_goes_on(world, disk, monkeypatch):
    from landmark.artifact import unfinished

    write = unfinished.write_description

    def after_another_filled_it(*arguments):
        fill(disk, leaving=0)
        write(*arguments)

    with monkeypatch.context() as context:
        context.setattr(unfinished, "write_description", after_another_filled_it)
        with pytest.raises(DiskFullError, match=r"s does not fit on the disk.*Free some space"):
            extract(world, disk / "s")
    assert not (disk / "s").exists()
    (disk / "filler").unlink()
    monkeypatch.setattr(extraction, "describe", lambda *_, **__: iter(()))  # all is described
    extract(world, disk / "s")
    assert files_of(disk / "s") == files_of(world / "whole")


def test_no_room_to_leave_photos_out_keeps_what_is_described(world, disk, monkeypatch):
    monkeypatch.setattr(WithoutPhotos, "bad", frozenset(["001"]))
    monkeypatch.setattr(extraction, "ScaledPhotoDataset", WithoutPhotos)
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


def test_a_place_that_cannot_be_written_is_a_mistake(world, read_only, tmp_path):
    with pytest.raises(UserError, match=r"disk/s cannot be written \(Read-only file system\)"):
        extract(world, read_only / "s")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/s cannot be written \(Not a directory\)"):
        extract(world, tmp_path / "file" / "s")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "file"]


@pytest.mark.parametrize("can_reserve", [True, False])
def test_the_space_of_a_file_is_taken_and_its_content_kept(tmp_path, monkeypatch, can_reserve):
    if not can_reserve:

        def refuse(*_):
            raise OSError(errno.EOPNOTSUPP, "not supported")

        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    file = tmp_path / "vectors.npy"
    made = np.lib.format.open_memmap(file, mode="w+", dtype="float32", shape=(100_000, 16))
    made[7] = 3
    made.flush()
    before = file.read_bytes()
    reserve(file)
    assert file.stat().st_blocks * 512 >= file.stat().st_size
    assert file.read_bytes() == before


def failing(error):
    raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_what_the_disk_refuses_is_named(number):
    with pytest.raises(UserError) as caught, disk_errors(Path("a") / "store"):
        failing(OSError(number, "x"))
    assert str(caught.value).startswith("a/store ")
    assert os.strerror(number) in str(caught.value)


def test_other_failures_stay_what_they_are():
    with pytest.raises(FileNotFoundError), disk_errors("store"):
        failing(FileNotFoundError(errno.ENOENT, "x"))

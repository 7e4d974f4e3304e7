"""Files and folders are written atomically; a full disk is one line."""

import errno
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from landmark.disk import atomic, temporary
from landmark.disk.atomic import atomic_file, atomic_folder, check_can_write
from landmark.disk.space import DiskFullError, disk_errors, reserve
from landmark.error import UserError

KIB = 1024


def tree(folder: Path) -> dict[str, str]:
    """Return the text of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path, stop: type[BaseException]) -> None:
    path.write_text("half")
    raise stop


def old_folder(path: Path) -> Path:
    path.mkdir()
    (path / "a").write_text("old")
    return path


# --- files ---


def test_a_file_appears_when_its_block_ends(tmp_path):
    with atomic_file(tmp_path / "new" / "a.txt") as file:
        file.write_text("complete")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert tree(tmp_path) == {"new/a.txt": "complete"}
    assert (tmp_path / "new" / "a.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [{}, {"a.txt": "old"}])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, stop, before):
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(stop), atomic_file(tmp_path / "a.txt") as file:
        write_half(file, stop)
    assert tree(tmp_path) == before


def test_a_fixed_temporary_name_is_overwritten_by_the_next_attempt(tmp_path):
    hidden = tmp_path / ".a.txt.tmp"
    hidden.write_text("of a killed process")
    with atomic_file(tmp_path / "a.txt", temporary=hidden) as file:
        assert file == hidden
        file.write_text("complete")
    assert tree(tmp_path) == {"a.txt": "complete"}


def test_an_unwritable_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path, words in ((tmp_path / "file" / "a.txt", "cannot be written"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=words), atomic_file(path):
            pytest.fail("the block must not be entered")
    assert tree(tmp_path) == {"file": "in the way"}


# --- folders ---


def test_a_folder_appears_when_its_block_ends(tmp_path):
    with atomic_folder(tmp_path / "store") as folder:
        (folder / "a").write_text("complete")
        assert not (tmp_path / "store").exists()
    assert tree(tmp_path) == {"store/a": "complete"}
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_may_be_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    with atomic_folder(tmp_path / "store") as folder:
        (folder / "a").write_text("complete")
    assert tree(tmp_path) == {"store/a": "complete"}
    assert names(tmp_path) == ["store"]


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_overwriting_keeps_the_old_folder_until_the_new_one_is_complete(
    tmp_path, monkeypatch, stop, can_exchange
):
    if not can_exchange:
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)  # only Linux can
    old_folder(tmp_path / "store")
    with pytest.raises(stop), atomic_folder(tmp_path / "store", overwrite=True) as folder:
        write_half(folder / "b", stop)
    assert names(tmp_path) == ["store"]
    assert tree(tmp_path) == {"store/a": "old"}
    with atomic_folder(tmp_path / "store", overwrite=True) as folder:
        (folder / "b").write_text("new")
    assert names(tmp_path) == ["store"]
    assert tree(tmp_path) == {"store/b": "new"}


def test_the_old_folder_is_restored_when_the_last_rename_fails(tmp_path, monkeypatch):
    old_folder(tmp_path / "store")
    rename = Path.rename

    def full_disk(path, target):
        if path != tmp_path / "store" and not path.name.endswith(".old"):
            raise OSError("no space left")
        return rename(path, target)

    monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="no space"), atomic_folder(tmp_path / "store", True) as new:
        (new / "b").write_text("new")
    assert names(tmp_path) == ["store"]
    assert tree(tmp_path) == {"store/a": "old"}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_kill_at_any_rename_loses_neither_folder(tmp_path, can_exchange):
    """After a kill before or after any rename, the old or the new folder is complete."""

    def overwrite(moment):
        count = 0

        def stepping(call):
            def stepped(*arguments):
                nonlocal count
                for step in (lambda: None, lambda: call(*arguments)):
                    if count == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    count += 1
                    result = step()
                return result

            return stepped

        Path.rename = stepping(Path.rename)
        atomic.exchange = stepping(atomic.exchange if can_exchange else lambda *_: False)
        with atomic_folder(tmp_path / "store", overwrite=True) as folder:
            (folder / "a").write_text("new")

    for moment in range(10):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        old_folder(tmp_path / "store")
        child = multiprocessing.get_context("fork").Process(target=overwrite, args=(moment,))
        child.start()
        child.join()
        if (tmp_path / "store").exists():
            assert tree(tmp_path / "store") in ({"a": "old"}, {"a": "new"})
        else:
            assert not can_exchange
        assert "old" in tree(tmp_path).values() or tree(tmp_path / "store") == {"a": "new"}
        for leftover in tmp_path.glob(".store.*"):
            shutil.rmtree(leftover)
        if child.exitcode == 0:
            assert moment > 1
            return
        assert child.exitcode == -signal.SIGKILL
    pytest.fail("killed at every moment")


def test_a_symlink_to_a_folder_remains_a_symlink(tmp_path):
    old_folder(tmp_path / "disk")
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    with atomic_folder(tmp_path / "store", overwrite=True) as folder:
        (folder / "b").write_text("new")
    assert (tmp_path / "store").is_symlink()
    assert names(tmp_path) == ["disk", "store"]
    assert tree(tmp_path / "disk") == {"b": "new"}


def test_a_path_that_already_exists_is_refused(tmp_path):
    (tmp_path / "a").write_text("old")
    for path, words in (
        (tmp_path, "overwrite=true"),
        (tmp_path / "a", "is a file"),
        (tmp_path / "a" / "b", "cannot be written"),
    ):
        with pytest.raises(UserError, match=words) as caught, atomic_folder(path):
            pytest.fail("the block must not be entered")
        assert str(caught.value).startswith(f"{path} ")
    assert tree(tmp_path) == {"a": "old"}


def publish_after_another_process(path):
    with atomic_folder(path) as folder:
        (folder / "mine").write_text("late")
        path.mkdir()
        (path / "theirs").write_text("first")


def test_a_folder_that_another_process_wrote_meanwhile_is_kept(tmp_path):
    with pytest.raises(UserError, match="already exists"):
        publish_after_another_process(tmp_path / "s")
    assert names(tmp_path) == ["s"]
    assert names(tmp_path / "s") == ["theirs"]


def test_only_a_folder_with_the_marker_may_be_overwritten(tmp_path):
    check_can_write(tmp_path, marker="meta.json")
    check_can_write(tmp_path / "none", marker="meta.json")
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match=r"no meta\.json, so --overwrite does not replace it"):
        check_can_write(tmp_path, overwrite=True, marker="meta.json", option="--overwrite")
    check_can_write(tmp_path, overwrite=True)
    (tmp_path / "meta.json").write_text("{}")
    check_can_write(tmp_path, overwrite=True, marker="meta.json")
    for option in ("overwrite=true", "--overwrite"):
        with pytest.raises(UserError, match=f"already exists. Pass {option} to replace it."):
            check_can_write(tmp_path, marker="meta.json", option=option)


# --- disks that are full or cannot be written ---


def fill(disk: Path, leaving: int) -> None:
    """Fill the file system up to some bytes."""
    status = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(status.f_bavail * status.f_frsize - leaving))


def test_a_full_disk_keeps_the_old_file_and_folder(disk):
    (disk / "a.txt").write_text("old")
    old_folder(disk / "store")
    fill(disk, leaving=0)
    large = bytes(8 * KIB)
    with (
        pytest.raises(DiskFullError, match=r"disk/a\.txt does not fit on the disk"),
        atomic_file(disk / "a.txt") as file,
    ):
        file.write_bytes(large)
    with (
        pytest.raises(DiskFullError, match=r"disk/store does not fit.*Free some space"),
        atomic_folder(disk / "store", overwrite=True) as folder,
    ):
        (folder / "b").write_bytes(large)
    assert names(disk) == ["a.txt", "filler", "store"]
    assert (disk / "a.txt").read_text() == "old"
    assert tree(disk / "store") == {"a": "old"}


@pytest.mark.parametrize("write", [atomic_file, atomic_folder])
@pytest.mark.parametrize("path", ["a", "deep/a"])
def test_a_read_only_disk_is_one_line(read_only, write, path):
    with (
        pytest.raises(UserError, match=rf"{path} cannot be written \(Read-only file system\)"),
        write(read_only / path),
    ):
        pytest.fail("the block must not be entered")


@pytest.mark.parametrize("can_reserve", [True, False])
def test_the_space_of_a_file_is_reserved_and_its_content_kept(tmp_path, monkeypatch, can_reserve):
    if not can_reserve:

        def refuse(*_):
            raise OSError(errno.EOPNOTSUPP, "not supported")

        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    file = tmp_path / "vectors.npy"
    array = np.lib.format.open_memmap(file, mode="w+", dtype="float32", shape=(100_000, 16))
    array[7] = 3
    array.flush()
    before = file.read_bytes()
    reserve(file)
    assert file.stat().st_blocks * 512 >= file.stat().st_size
    assert file.read_bytes() == before


@pytest.mark.parametrize("can_reserve", [True, False])
def test_missing_space_is_not_reserved(disk, monkeypatch, can_reserve):
    if not can_reserve:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with (disk / "sparse").open("wb") as file:
        file.truncate(200 * KIB)
    with pytest.raises(OSError, match="No space left"):
        reserve(disk / "sparse")


def raise_error(error):
    raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_disk_error_names_the_path(number):
    with pytest.raises(UserError) as caught, disk_errors(Path("a") / "store"):
        raise_error(OSError(number, "x"))
    assert str(caught.value).startswith("a/store ")
    assert os.strerror(number) in str(caught.value)
    assert isinstance(caught.value, DiskFullError) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_other_errors_and_errors_of_other_files_propagate():
    with pytest.raises(FileNotFoundError), disk_errors("store"):
        raise_error(FileNotFoundError(errno.ENOENT, "x"))
    with pytest.raises(PermissionError), disk_errors("store", within=Path("store")):
        raise_error(PermissionError(errno.EACCES, "x", "elsewhere/photo.jpg"))
    with pytest.raises(UserError), disk_errors("store", within=Path("store")):
        raise_error(PermissionError(errno.EACCES, "x", "store/vectors.npy"))


def test_a_large_temporary_array_is_a_deleted_file(monkeypatch, tmp_path, disk):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert not isinstance(temporary.temporary_array((4, 2), "f4"), np.memmap)
    monkeypatch.setattr(temporary, "_MAX_BYTES_IN_MEMORY", 16)
    array = temporary.temporary_array((4, 2), "f4")
    assert isinstance(array, np.memmap)
    array[:] = 3
    assert array.sum() == 24
    assert names(tmp_path) == ["disk"]
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(UserError, match=r"disk has no space for .*Set TMPDIR to another folder"):
        temporary.temporary_array((200, KIB), "u1")

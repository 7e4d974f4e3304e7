"""Only one process at a time writes an output; the lock ends with its process."""

import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from landmark.disk import atomic
from landmark.disk.lock import LOCK, locked, publish, staging_folder
from landmark.error import UserError

FORK = multiprocessing.get_context("fork")


def run_in_child(work) -> int:
    """Run `work` in a child and return its exit status."""
    child = FORK.Process(target=work)
    child.start()
    child.join()
    return child.exitcode


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_lock_names_its_holder_and_keeps_others_out(tmp_path):
    output = tmp_path / "s"
    command = re.escape(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:20])
    holder = (
        rf"process {os.getpid()} on {socket.gethostname()} since 20\d\d-.{{14}} \({command}.*\)"
    )

    def refused():
        words = rf"s is being written by {holder}\. Wait"
        with pytest.raises(UserError, match=words), locked(output):
            pytest.fail("the block must not be entered")

    with locked(output) as staging:
        assert staging == tmp_path / ".s.partial"
        assert run_in_child(refused) == 0
        assert names(staging) == [LOCK]
    assert names(tmp_path) == []


def test_the_lock_of_a_dead_process_does_not_block(tmp_path):
    output = tmp_path / "s"

    def killed():
        with locked(output) as staging:
            (staging / "work").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert run_in_child(killed) == -signal.SIGKILL
    assert names(tmp_path / ".s.partial") == [LOCK, "work"]
    with locked(output) as staging:
        assert (staging / "work").read_text() == "half"
        assert str(os.getpid()) in (staging / LOCK).read_text()


def test_a_staging_folder_with_files_is_kept_and_an_empty_one_removed(tmp_path):
    with locked(tmp_path / "s") as staging:
        (staging / "work").touch()
    assert names(staging) == [LOCK, "work"]
    with locked(tmp_path / "s"):
        (staging / "work").unlink()
    assert names(tmp_path) == []


def test_the_staging_folder_is_next_to_the_target_of_a_symlink(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "s")
    assert staging_folder(tmp_path / "link") == tmp_path / "disk" / ".s.partial"
    monkeypatch.chdir(tmp_path / "disk")
    assert staging_folder(Path()) == tmp_path / ".disk.partial"


def test_an_unwritable_output_is_one_line(tmp_path, read_only):
    (tmp_path / "file").touch()
    for output, reason in (
        (tmp_path / "file" / "s", "Not a directory"),
        (read_only / "s", "Read-only file system"),
    ):
        with pytest.raises(UserError, match=rf"s cannot be written \({reason}\)"), locked(output):
            pytest.fail("the block must not be entered")


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_kill_while_publishing_leaves_the_old_output_or_the_new_one(tmp_path, can_exchange):
    """After a kill at any rename, the next lock restores the folder that was moved aside."""
    output = tmp_path / "s"

    def replace(moment):
        count = 0

        def stepping(call):
            def stepped(*arguments):
                nonlocal count
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                result = call(*arguments)
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return result

            return stepped

        Path.rename = stepping(Path.rename)
        atomic.exchange = stepping(atomic.exchange if can_exchange else lambda *_: False)
        with locked(output) as staging:
            (staging / "made").mkdir()
            (staging / "made" / "a").write_text("new")
            publish(staging / "made", output, staging)

    seen = set()
    for moment in range(12):
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(staging_folder(output), ignore_errors=True)
        output.mkdir()
        (output / "a").write_text("old")
        status = run_in_child(lambda moment=moment: replace(moment))
        with locked(output) as staging:
            seen.add((output / "a").read_text())
            for path in staging.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
        assert names(tmp_path) == ["s"]
        if status == 0:
            assert seen == {"old", "new"}
            return
        assert status == -signal.SIGKILL
    pytest.fail("killed at every moment")

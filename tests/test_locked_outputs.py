"""Every output is locked while it is written: a second command names the holder and stops."""

import errno
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
from test_disk_lock import run_in_child

from landmark.artifact.descriptors import DescriptorStore
from landmark.disk import lock as module
from landmark.disk.lock import locked, locked_in_place
from landmark.error import UserError
from landmark.search import IVF
from landmark.sweep.summary import write_summary
from landmark.toy import ToyWorld

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def stores(tmp_path):
    for name in ("query", "gallery"):
        vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        ids = [f"{name}-{row}" for row in range(40)]
        DescriptorStore.write(tmp_path / name, ids, vectors)
    return tmp_path


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "command",
    [
        ["rerank.py", "query=query", "gallery=gallery", "output=out"],
        ["fit.py", "fit=pca", "fit.dim=4", "train=gallery", "output=out"],
        ["landmark/__main__.py", "store", "join", "out", "query", "gallery"],
    ],
)
def test_a_second_command_names_the_holder(scripts, stores, command, overwrite):
    option = "--overwrite" if "store" in command else "overwrite=true"
    with locked(stores / "out"):
        result = scripts.run(*command, *[option] * overwrite, cwd=stores, status=2)
    assert result.stderr.startswith(f"error: out is being written by process {os.getpid()} on ")
    assert len(result.stderr.splitlines()) == 1
    assert sorted(path.name for path in stores.iterdir()) == ["gallery", "query"]
    scripts.run(*command, cwd=stores)
    assert sorted(path.name for path in stores.iterdir()) == ["gallery", "out", "query"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_training_does_not_touch_the_run(scripts, tmp_path, overwrite):
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text("first")
    overrides = ["hydra.run.dir=run", "trainer=cpu", *["overwrite=true"] * overwrite]
    with locked_in_place(run):
        result = scripts.run("train.py", *overrides, cwd=tmp_path, status=2)
        assert f"run is being written by process {os.getpid()} on " in result.stderr
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert names == ["run", "run/.hydra", "run/.hydra/config.yaml"]
    assert (run / ".hydra" / "config.yaml").read_text() == "first"


def test_a_second_sweep_does_not_touch_the_jobs(scripts, tmp_path):
    with locked_in_place(tmp_path / "sweep"):
        overrides = ["-m", "seed=0,1", "hydra.sweep.dir=sweep", "trainer=cpu"]
        result = scripts.run("train.py", *overrides, cwd=tmp_path, status=2)
    assert "sweep is being written by process" in result.stderr
    assert list((tmp_path / "sweep").iterdir()) == []


def test_an_index_and_a_sweeps_table_have_one_writer(tmp_path):
    gallery = np.eye(8, dtype=np.float32)
    search = IVF(n_lists=2, n_probe=2, refine=0, index=str(tmp_path / "index"))
    job = tmp_path / "sweep" / "0" / ".hydra"
    job.mkdir(parents=True)
    (job / "overrides.yaml").write_text("- seed=0\n")

    def refused():
        with pytest.raises(UserError, match="index is being written by process"):
            search.build(gallery)
        with pytest.raises(UserError, match=r"sweep\.csv is being written by process"):
            write_summary(tmp_path / "sweep")

    with locked(tmp_path / "index"), locked(tmp_path / "sweep" / "sweep.csv"):
        assert run_in_child(refused) == 0
    search.build(gallery)
    write_summary(tmp_path / "sweep")
    with locked(tmp_path / "index"):  # reading a complete index needs no lock
        assert run_in_child(lambda: search.build(gallery)) == 0


def test_a_world_is_drawn_once_and_others_wait(tmp_path, capfd):
    world = ToyWorld(landmarks=2, photos=2, seed=0, styles=1, scale=0.2)
    other = FORK.Process(target=lambda: world.make(tmp_path))
    with locked(world.folder(tmp_path)):
        other.start()
        other.join(1)
        assert other.is_alive()
        shutil.copytree(__file__.rpartition("/")[0], world.folder(tmp_path))
    other.join(60)
    assert other.exitcode == 0
    assert f"is being written by process {os.getpid()}" in capfd.readouterr().err
    assert not list(world.folder(tmp_path).glob("*/*.jpg"))  # it drew nothing


def test_the_lock_of_a_killed_run_does_not_block(tmp_path):
    def killed():
        with locked_in_place(tmp_path / "run"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert run_in_child(killed) == -signal.SIGKILL
    # The number of the dead process may belong to another one now.
    (tmp_path / "run" / ".lock").write_text(f"process {os.getppid()} on here since 2020")
    with locked_in_place(tmp_path / "run"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / ".lock").read_text()
    assert list((tmp_path / "run").iterdir()) == []


def test_many_processes_take_turns_and_none_meets_another(tmp_path):
    """A holder removes the lock when it ends, while others may have opened it."""
    marker, count = tmp_path / "inside", tmp_path / "count"
    count.write_text("0")

    def increment():
        for _ in range(20):
            with locked(tmp_path / "out", wait=True):
                marker.touch(exist_ok=False)
                count.write_text(str(int(count.read_text()) + 1))
                marker.unlink()

    children = [FORK.Process(target=increment) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert count.read_text() == "80"


@pytest.mark.parametrize("error", [FileExistsError, FileNotFoundError])
def test_a_folder_that_a_holder_removes_meanwhile_is_created_again(tmp_path, monkeypatch, error):
    """`Path.mkdir` finds the folder, then looks whether it is one: it may be gone by then."""
    mkdir, calls = module.Path.mkdir, []

    def removed_meanwhile(path, *args, **kwargs):
        calls.append(path)
        if len(calls) <= 2:
            raise error(17, "removed", str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(module.Path, "mkdir", removed_meanwhile)
    with locked(tmp_path / "out") as staging:
        assert staging.is_dir()


@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_or_a_broken_link_where_the_folder_belongs_is_named(tmp_path, is_link):
    blocking = tmp_path / ".out.partial"
    blocking.symlink_to(tmp_path / "missing") if is_link else blocking.write_text("")
    with pytest.raises(UserError, match="out cannot be written"), locked(tmp_path / "out"):
        pass


def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module.fcntl, "lockf", unsupported)
    with locked(tmp_path / "out") as staging:
        assert staging.is_dir()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "out is not locked: its file system has no locks (No locks available)." in error


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
@pytest.mark.parametrize("foreign", ["a.JPG", "arch/1.png", "documents/letter.txt"])
def test_a_run_is_not_written_among_other_files(scripts, tmp_path, key, foreign):
    file = tmp_path / "mine" / foreign
    file.parent.mkdir(parents=True)
    file.touch()
    sweep = ["-m", "seed=0,1"] if key == "hydra.sweep.dir" else []
    options = [*sweep, f"{key}=mine", "overwrite=true"]
    result = scripts.run("train.py", *options, cwd=tmp_path, status=2)
    (line,) = result.stderr.splitlines()
    assert line == (
        f"error: {key}=mine contains other files, such as {foreign.partition('/')[0]}. Pass a new "
        "folder, or that of an earlier run."
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]

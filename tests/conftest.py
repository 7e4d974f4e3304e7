"""Fixtures shared by every test file."""

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

# Set before torch is imported, and inherited by all processes of the tests: the last bit of a
# forward pass depends on the number of threads, and each of several ranks uses fewer threads.
os.environ["OMP_NUM_THREADS"] = "1"
# The processes that tests start compile the package once, not each of them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Otherwise the make processes that tests start print that they are submakes of `make test`.
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference data next to the checkout; skip if it does not exist."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def scripts():
    """Yield the runner of root scripts: `scripts.run("train.py", "loss=arcface", cwd=folder)`."""
    from forked import Scripts

    server = Scripts()
    yield server
    server.close()


@pytest.fixture
def in_process(monkeypatch, capsys, tmp_path):
    """Run a root script in this process in tmp_path; return status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def command(script: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return command


@pytest.fixture
def rerank(in_process):
    """Run rerank.py in this process in tmp_path; return status, stdout and stderr."""
    return partial(in_process, "rerank.py")


@pytest.fixture
def recognize(in_process):
    """Run recognize.py in this process in tmp_path; return status, stdout and stderr."""
    return partial(in_process, "recognize.py")


def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small file system for a test; skip where that is impossible."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = process.stderr.strip()
    except FileNotFoundError:
        reason = "mount is missing"
    if not os.path.ismount(folder):
        pytest.skip(f"a small file system cannot be mounted ({reason})")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """Mount a file system of 64 KiB."""
    yield from mounted(tmp_path / "disk", "size=64k")


@pytest.fixture
def read_only(tmp_path) -> Iterator[Path]:
    """Mount a read-only file system."""
    yield from mounted(tmp_path / "disk", "ro,size=64k")

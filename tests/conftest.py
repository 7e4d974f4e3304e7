"""Fixtures shared by every test file."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before torch is imported, and inherited by every process that a test starts: the last bit of a
# forward pass depends on the number of threads, which a process of several has fewer of.
os.environ["OMP_NUM_THREADS"] = "1"
# `make test` tells the makes that tests start that they are parts of it, and they say so.
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference answers beside the checkout; skips where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference answers at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def scripts():
    """Runs the root scripts: `scripts.run("train.py", "loss=arcface", cwd=tmp_path)`."""
    from forked import Scripts

    running = Scripts()
    yield running
    running.close()


def mounted(place: Path, options: str) -> Iterator[Path]:
    """A small file system for a test; skips where none can be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = done.stderr.strip()
    except FileNotFoundError:
        reason = "no mount"
    if not os.path.ismount(place):
        pytest.skip(f"a small file system cannot be mounted here ({reason})")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    yield from mounted(tmp_path / "disk", "size=64k")


@pytest.fixture
def read_only(tmp_path) -> Iterator[Path]:
    """A file system that cannot be written."""
    yield from mounted(tmp_path / "disk", "ro,size=64k")

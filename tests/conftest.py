"""Fixtures shared by every test file."""

from pathlib import Path

import pytest

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

"""A run stopped in the middle of an epoch resumes to the result of an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOMENTS = {"SIGKILL": 10, "SIGINT": 6, "SIGTERM": 4}
SETTINGS = [
    "data.landmarks=5",
    "data.photos=12",
    "data.scale=0.5",
    "model=resnet10t",
    "model.embedding_dim=16",
    "model.dropout=0.2",
    "model.drop_path=0.1",
    "image=px96",
    "image.sizes=[[64,64]]",
    "batch_size=8",
    "workers=0",
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.max_epochs=2",
    "callback=ema",
    "callback.ema.decay=0.9",
    "save_every_steps=2",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("number", "moments"), MOMENTS.items())
def test_a_stopped_run_resumes_to_the_same_weights_and_metrics(tmp_path, number, moments):
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "killed_runs.py"), number, str(moments), *SETTINGS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    runs = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(runs) == moments, result.stderr
    for run in runs:
        assert run["stopped"], run
        assert run["finished"], (run, result.stderr)
        assert run["same"], run


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_of_the_current_step(tmp_path):
    """A scheduler's SIGTERM stops the run with status 143; the same command completes it."""
    command = [sys.executable, str(ROOT / "train.py"), *SETTINGS[:-1], "save_every_steps=null"]
    command += ["trainer.max_epochs=400", "hydra.run.dir=run"]
    started = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 240
    while not metrics.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    printed, _ = started.communicate(timeout=120)
    assert started.returncode == 143
    assert "interrupted by SIGTERM; the same command resumes" in printed
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "result.json").exists()

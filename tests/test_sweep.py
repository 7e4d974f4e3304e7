"""Sweeps: killed ones resume; launchers and sweepers are Hydra plugins."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TINY = [
    "data.landmarks=4",
    "data.photos=8",
    "data.scale=0.3",
    "model=resnet10t",
    "model.backbone=test_resnet",
    "model.embedding_dim=8",
    "image=px96",
    "image.sizes=[[32,32]]",
    "batch_size=8",
    "workers=0",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
]


def results(folder):
    """Map the number of each finished job to the time of its result."""
    return {int(f.parent.name): f.stat().st_mtime_ns for f in folder.glob("*/result.json")}


def kill_after_first_job(command, cwd, folder):
    """Start a sweep and kill it and its children when the first result exists."""
    started = subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not results(folder) and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    return results(folder)


@pytest.mark.slow
def test_a_killed_sweep_runs_only_the_missing_jobs(scripts, tmp_path):
    command = ["-m", *TINY, "seed=1,2,3", "hydra.sweep.dir=sweep"]
    before = kill_after_first_job(
        [sys.executable, str(ROOT / "train.py"), *command], tmp_path, tmp_path / "sweep"
    )
    assert 1 <= len(before) < 3
    printed = scripts.run("train.py", *command, cwd=tmp_path).stdout
    after = results(tmp_path / "sweep")
    assert sorted(after) == [0, 1, 2]
    assert {number: after[number] for number in before} == before
    assert printed.count("is up to date") == len(before)
    report = subprocess.run(
        [sys.executable, "-m", "landmark", "sweep", str(tmp_path / "sweep")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert report.count("| done") == 3
    assert "unfinished" not in report


@pytest.mark.slow
def test_parallel_jobs_share_the_sweeps_folder_and_resume(scripts, tmp_path):
    """With joblib: the second command reuses job 0 and runs job 1 in the same folder."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = ["-m", "hydra/launcher=processes", *TINY]
    scripts.run("train.py", *command, "seed=1", cwd=tmp_path)
    (sweep,) = (tmp_path / "runs" / "train").glob("*/*")  # one default folder per sweep
    before = results(sweep)
    assert sorted(before) == [0]
    # With a data loading process, which such a job starts in a different way.
    again = [*command, "seed=1,2", "workers=1", f"hydra.sweep.dir={sweep}"]
    scripts.run("train.py", *again, cwd=tmp_path)
    assert sorted(results(sweep)) == [0, 1]
    assert results(sweep)[0] == before[0]


@pytest.mark.slow
def test_a_restarted_optuna_sweep_repeats_its_trials(scripts, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    command = ["-m", "hydra/sweeper=tpe", "hydra.sweep.dir=sweep", *TINY]
    command += [
        "optimizer.lr=tag(log,interval(1e-5,1e-1))",
        "hydra.sweeper.sampler.n_startup_trials=1",
    ]
    scripts.run("train.py", *command, "hydra.sweeper.n_trials=2", cwd=tmp_path)
    before = results(tmp_path / "sweep")
    printed = scripts.run("train.py", *command, "hydra.sweeper.n_trials=3", cwd=tmp_path).stdout
    assert printed.count("is up to date") == 2
    after = results(tmp_path / "sweep")
    assert sorted(after) == [0, 1, 2]
    assert [after[number] for number in before] == list(before.values())
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    scores = [json.loads(f.read_text())["best"] for f in tmp_path.glob("sweep/*/result.json")]
    assert best["best_value"] == max(scores)


@pytest.mark.parametrize(
    ("choice", "plugin", "package"),
    [
        ("hydra/launcher=processes", "hydra_joblib_launcher", "hydra-joblib-launcher"),
        ("hydra/launcher=slurm", "hydra_submitit_launcher", "hydra-submitit-launcher"),
        ("hydra/launcher=ray_cluster", "hydra_ray_launcher", "hydra-ray-launcher"),
        ("hydra/sweeper=tpe", "hydra_optuna_sweeper", "hydra-optuna-sweeper"),
    ],
)
def test_a_missing_plugin_is_named_with_its_package(choice, plugin, package, tmp_path):
    """Run a process in which the plugin cannot be imported."""
    hide = (
        "import sys, pkgutil\n"
        "walk = pkgutil.walk_packages\n"
        "pkgutil.walk_packages = lambda *a, **k: "
        f"(m for m in walk(*a, **k) if {plugin!r} not in m.name)\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.argv = [{str(ROOT / 'train.py')!r}, '-m', {choice!r}, 'seed=1,2']\n"
        "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", hide], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.endswith(f"pip install {package}.\n")

"""Training on two ranks, in a single run and in a sweep."""

import csv
import json
import os

import pytest
import torch
import yaml
from test_train import TINY, assert_same_weights, weights

WITNESS = """
import json, os
from pathlib import Path
from landmark.task import RetrievalTask
start = RetrievalTask.on_train_start
def witness(self):
    start(self)
    seen = {"rank": self.global_rank, "loss": type(self.loss).__name__, "scale": self.loss.scale}
    path = Path(os.environ["WITNESSES"]) / f"{os.getpid()}.json"
    path.write_text(json.dumps(seen))
RetrievalTask.on_train_start = witness
"""
ONE_EPOCH = [*TINY, "trainer.max_epochs=1", "workers=0"]
TWO_PROCESSES = [*ONE_EPOCH, "trainer=ddp_cpu", "trainer.devices=2"]


def validated(folder):
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/map_at_100"]]
    return [(float(row["val/map_at_100"]), float(row["val/top_1"])) for row in rows]


def test_validation_on_two_ranks_equals_one_process(scripts, tmp_path):
    still = ["optimizer.lr=0", "task.freeze_batchnorm=true", "model.neck=none", "keep=last"]
    still += ["task.freeze_backbone_epochs=1"]  # parameters without gradients, which DDP must know
    scripts.run("train.py", *ONE_EPOCH, *still, "hydra.run.dir=one", cwd=tmp_path)
    result = scripts.run("train.py", *TWO_PROCESSES, *still, "hydra.run.dir=two", cwd=tmp_path)
    assert result.stdout.count("wrote two") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "toy", "two"]
    assert len(validated(tmp_path / "two")) == 1
    assert validated(tmp_path / "two")[0] == pytest.approx(validated(tmp_path / "one")[0], abs=1e-6)


@pytest.mark.slow
def test_each_job_of_a_two_rank_sweep_has_one_folder_and_one_logger_run(scripts, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITNESS)
    (tmp_path / "witnesses").mkdir()
    scripts.run(
        "train.py",
        "-m",
        "loss=arcface,cosface",
        "loss.scale=20",
        "logger=wandb",
        "hydra.sweep.dir=sweep",
        *TWO_PROCESSES,
        cwd=tmp_path,
        environment={
            "PYTHONPATH": str(tmp_path / "site"),
            "WITNESSES": str(tmp_path / "witnesses"),
        },
    )
    seen = [json.loads(path.read_text()) for path in (tmp_path / "witnesses").iterdir()]
    assert sorted((one["loss"], one["rank"], one["scale"]) for one in seen) == [
        ("ArcFace", 0, 20),
        ("ArcFace", 1, 20),
        ("CosFace", 0, 20),
        ("CosFace", 1, 20),
    ]
    jobs = sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert jobs == ["0", "1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "sweep", "toy", "witnesses"]
    for job, loss in zip(jobs, ("ArcFace", "CosFace"), strict=True):
        folder = tmp_path / "sweep" / job
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
        assert config["loss"]["_target_"].endswith(loss)
        assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    scripts.run(
        "train.py",
        "loss=arcface",
        "loss.scale=20",
        "hydra.run.dir=alone",
        *TWO_PROCESSES,
        cwd=tmp_path,
    )
    assert validated(tmp_path / "alone") == validated(tmp_path / "sweep" / "0")
    assert_same_weights(
        weights(tmp_path / "alone"), weights(tmp_path / "sweep" / "0"), rtol=0, atol=0
    )


def test_jobs_started_in_the_same_second_get_different_folders(tmp_path, monkeypatch):
    from landmark.cli import _jobs
    from landmark.cli._jobs import unused_folder

    monkeypatch.chdir(tmp_path)
    mine = unused_folder("runs/train/2026-01-01/00-00-00")
    assert mine == unused_folder("runs/train/2026-01-01/00-00-00")
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                _jobs._folders.clear()
                made = unused_folder("runs/train/2026-01-01/00-00-00")
                os._exit(int(made.name[-1]))
            finally:  # a failing child must not continue as pytest
                os._exit(1)
        children.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert mine.name == "00-00-00"
    assert sorted(children) == [2, 3]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what the CPU cannot")
def test_batchnorm_is_not_synchronised_on_the_cpu(scripts, tmp_path):
    result = scripts.run(
        "train.py",
        *TWO_PROCESSES,
        "trainer.devices=1",
        "trainer.sync_batchnorm=true",
        cwd=tmp_path,
        status=2,
    )
    assert result.stderr.strip().startswith("error: trainer.sync_batchnorm=true")

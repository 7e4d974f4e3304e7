"""A run, stores and a ranking written by an earlier version (tests/written_by_0.1) still work."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings

WRITTEN = Path(__file__).with_name("written_by_0.1")
TRAIN = [
    *("data=folder", "data.root=photos", "model=resnet10t", "model.backbone=test_efficientnet"),
    *("model.embedding_dim=8", "image=px96", "image.sizes=[[64,64]]", "batch_size=8", "workers=0"),
    *("optimizer=sgd", "optimizer.lr=1e-3", "schedule.warmup=0", "trainer=cpu"),
    *("trainer.max_epochs=1", "trainer.enable_progress_bar=false", "hydra.run.dir=run"),
]
EXTRACT = ["data=folder", "data.root=photos", "workers=0", "extract.scales=[1,1.5]"]


@pytest.fixture
def workdir(tmp_path):
    """Return a copy of the files."""
    shutil.copytree(WRITTEN, tmp_path, dirs_exist_ok=True)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copy(checkpoints / "last.ckpt", checkpoints / "best.ckpt")  # the run has one epoch
    return tmp_path


def test_a_finished_run_is_recognised(scripts, workdir):
    result = scripts.run("train.py", *TRAIN, cwd=workdir)
    assert "run is up to date" in result.stdout
    changed = scripts.run("train.py", *TRAIN, "loss.margin=0.4", cwd=workdir, status=2)
    assert "loss.margin (0.3, now 0.4)" in changed.stderr


def test_its_checkpoint_is_resumed(scripts, workdir):
    (workdir / "run" / "result.json").unlink()
    result = scripts.run("train.py", *TRAIN, cwd=workdir)
    assert "resumes     run/checkpoints/last.ckpt" in result.stdout
    assert json.loads((workdir / "run" / "result.json").read_text())["resumed"] is True


def test_a_run_without_its_best_checkpoint_keeps_the_last(scripts, workdir):
    for name in ("result.json", "checkpoints/best.ckpt"):
        (workdir / "run" / name).unlink()
    result = scripts.run("train.py", *TRAIN, cwd=workdir)
    line = "run/embedder has the weights of run/checkpoints/last.ckpt."
    assert line in result.stdout
    assert json.loads((workdir / "run" / "result.json").read_text())["kept"] == "last"


@pytest.mark.parametrize("embedder", ["run/embedder", "run/checkpoints/last.ckpt"])
def test_its_embedder_computes_the_same_descriptors(scripts, workdir, embedder):
    options = [f"embedder={embedder}", *EXTRACT, "split=gallery", "output=new"]
    scripts.run("extract.py", *options, cwd=workdir)
    old, new = (DescriptorStore.open(workdir / name) for name in ("stores/gallery", "new"))
    assert old.ids.tolist() == new.ids.tolist()
    assert old.landmark_ids.tolist() == new.landmark_ids.tolist()
    np.testing.assert_allclose(old.vectors, new.vectors, atol=1e-5)


def test_its_store_is_up_to_date(scripts, workdir):
    options = ["embedder=run/embedder", *EXTRACT, "split=gallery", "output=stores/gallery"]
    result = scripts.run("extract.py", *options, cwd=workdir)
    assert "stores/gallery is up to date" in result.stdout


def test_its_stores_give_the_same_ranking(scripts, workdir):
    options = [f"{name}=stores/{name}" for name in ("query", "gallery", "train")]
    scripts.run("rerank.py", *options, "rerank=[alpha_qe,two_stage]", "output=new", cwd=workdir)
    old, new = (Rankings.open(workdir / name) for name in ("ranking", "new"))
    np.testing.assert_array_equal(old.rows, new.rows)
    np.testing.assert_allclose(old.scores, new.scores, atol=1e-5)
    written, again = (
        (workdir / name / "submission.csv").read_text() for name in ("ranking", "new")
    )
    assert written == again

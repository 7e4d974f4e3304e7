"""Losses beside the main one: their sum, their memory, and the batches that they need."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from naive_loss import CLASSES, DIM
from test_train import TINY

from landmark.error import UserError
from landmark.loss import ArcFace, SupCon, Triplet
from landmark.loss.auxiliary import AuxiliaryLosses
from landmark.loss.build import build_auxiliary, check_pairs

ROOT = Path(__file__).resolve().parents[1]
PAIRS = ["sampler=per_class", "sampler.classes_per_batch=4", "sampler.photos_per_class=2"]


def logged(folder, name):
    with (folder / "metrics.csv").open() as file:
        return np.array([float(row[name]) for row in csv.DictReader(file) if row.get(name)])


def test_the_total_is_the_weighted_sum_and_its_gradient():
    embeddings, labels = torch.randn(6, DIM, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 3])
    main = ArcFace(DIM, CLASSES)
    makes = {"supcon": SupCon, "triplet": Triplet}
    others = build_auxiliary(makes, {"supcon": 0.5, "triplet": 2.0}, DIM, np.ones(CLASSES))
    parts = [loss(embeddings, labels) for loss in (main, *others.losses.values())]
    total = others.total(main(embeddings, labels), others(embeddings, labels))
    torch.testing.assert_close(total, parts[0] + 0.5 * parts[1] + 2.0 * parts[2])
    (got,) = torch.autograd.grad(total, embeddings)
    each = [torch.autograd.grad(part, embeddings)[0] for part in parts]
    torch.testing.assert_close(got, each[0] + 0.5 * each[1] + 2.0 * each[2])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_must_be_above_0(weight):
    with pytest.raises(UserError, match=r"auxiliary\.supcon\.weight"):
        AuxiliaryLosses({"supcon": SupCon(DIM, CLASSES)}, {"supcon": weight})


def test_pair_losses_need_a_sampler_that_guarantees_pairs():
    check_pairs({"arcface": ArcFace(DIM, CLASSES)}, 1)
    check_pairs({"triplet": Triplet(DIM, CLASSES)}, 2)
    with pytest.raises(UserError, match=r"triplet.*sampler=per_class"):
        check_pairs({"arcface": ArcFace(DIM, CLASSES), "triplet": Triplet(DIM, CLASSES)}, 1)


def test_a_run_with_auxiliary_losses_logs_each(scripts, tmp_path):
    chosen = [*TINY, *PAIRS, "auxiliary=[supcon,xbm]", "auxiliary.supcon.weight=0.5"]
    chosen += ["auxiliary.xbm.memory_size=20", "trainer.log_every_n_steps=1"]
    whole = [*chosen, "trainer.max_epochs=2", "hydra.run.dir=whole"]
    printed = scripts.run("train.py", *whole, cwd=tmp_path).stdout
    assert "arcface + 0.5 supcon + 1.0 xbm" in printed
    folder = tmp_path / "whole"
    parts = [logged(folder, f"train/{name}") for name in ("loss", "arcface", "supcon", "xbm")]
    assert len(parts[0]) > 5
    np.testing.assert_allclose(parts[0], parts[1] + 0.5 * parts[2] + parts[3], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_resumes_with_its_cross_batch_memory(tmp_path):
    """The loss of a step depends on the embeddings of the steps before it."""
    options = [*TINY, *PAIRS, "model=resnet10t", "auxiliary=[xbm]", "auxiliary.xbm.memory_size=20"]
    options += ["trainer.max_epochs=2", "save_every_steps=2", "loss=curricularface"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "killed_runs.py"), "SIGKILL", "2", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    runs = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(runs) == 2, result.stderr
    assert all(run["stopped"] and run["same"] for run in runs), (runs, result.stderr)

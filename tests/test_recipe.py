"""The recipe's stages, run by `make recipe` on miniatures of GLDv1 and GLDv2."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import google_landmarks, google_landmarks_clean, toy
from torch import nn

from landmark.artifact.descriptors import DescriptorStore
from landmark.error import UserError
from landmark.model.weights_file import read_checkpoint
from landmark.task.restore_head import restore_head
from landmark.task.schedule import cosine

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "model.backbone=test_resnet",
    "model.embedding_dim=8",
    "batch_size=8",
    "workers=0",
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
    "callback=learning_rate",
]
SMALL = "image.sizes=[[64,32],[64,32],[32,32],[32,64],[32,64]]"
STAGES = ("gldv1_pretrain", "gldv2_clean", "scale_up")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landmarks")
    world = folder / "toy"
    toy(world, scale=0.2).read()
    for name in ("one", "two"):
        (folder / name).mkdir()
    google_landmarks(world, folder / "one", folders=False)
    google_landmarks_clean(world, folder / "two")
    return {"GLDV1": folder / "one", "GLDV2": folder / "two"}


def make(target, *variables, cwd=ROOT, dry=False):
    bin_folder = Path(sys.executable).parent
    return subprocess.run(
        ["make", *(["-n"] if dry else []), "-o", ".venv/installed", target, f"BIN={bin_folder}"]
        + [str(variable) for variable in variables],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def variables(roots, recipe):
    return [f"{name}={root}" for name, root in roots.items()] + [
        f"RECIPE={recipe}",
        f"OVERRIDES={' '.join(map(shlex.quote, [*TINY, SMALL]))}",
        "FIRST=weights=null",
    ]


@pytest.fixture(scope="module")
def recipe(roots, scripts, tmp_path_factory):
    """Return the recipe's folder; the first stage is finished before make runs, as after a kill."""
    folder = tmp_path_factory.mktemp("recipe") / "runs"
    first = scripts.run(
        "train.py",
        "experiment=gldv1_pretrain",
        f"data.root={roots['GLDV1']}",
        f"hydra.run.dir={folder}/gldv1_pretrain",
        "weights=null",
        *TINY,
        SMALL,
        cwd=folder.parent,
    )
    assert "is up to date" not in first.stdout
    result = make("recipe", *variables(roots, folder))
    assert result.returncode == 0, result.stderr + result.stdout
    (folder / "printed.txt").write_text(result.stdout)
    return folder


def settings(run):
    return json.loads((run / "result.json").read_text())["settings"]


def learning_rates(run):
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("lr-SGD/backbone")]
    return {int(row["step"]): float(row["lr-SGD/backbone"]) for row in rows}


@pytest.mark.slow
def test_make_runs_the_stages_in_order_and_skips_finished_ones(recipe):
    parts = (recipe / "printed.txt").read_text().split("== ")[1:]
    assert [part.split()[0] for part in parts] == list(STAGES)
    assert ["is up to date" in part for part in parts] == [True, False, False]
    for stage, part in zip(STAGES, parts, strict=True):
        assert part.strip().endswith(f"wrote {recipe / stage}")
        assert (recipe / stage / "embedder" / "weights.safetensors").is_file()


@pytest.mark.slow
def test_each_stage_starts_from_the_previous_one_with_the_recipes_settings(recipe):
    one, two, three = (settings(recipe / stage) for stage in STAGES)
    assert (one["init"], one["trainer"]["max_epochs"]) == (None, 6)
    assert two["init"] == f"{recipe}/gldv1_pretrain/embedder"
    assert three["init"] == f"{recipe}/gldv2_clean/embedder"
    assert [stage["keep_head"] for stage in (one, two, three)] == [False, False, True]
    assert [stage["task"]["freeze_batchnorm"] for stage in (one, two, three)] == [0, 0, 1]
    for stage in (one, two, three):
        assert stage["optimizer"]["lr"] == 1e-3
        assert stage["optimizer"]["momentum"] == 0.9
        assert stage["optimizer"]["weight_decay"] == 1e-5
        assert stage["schedule"]["final_lr"] == 3e-6
        assert (stage["loss"]["margin"], stage["loss"]["scale"]) == (0.3, 30.0)


@pytest.mark.slow
def test_the_third_stage_continues_the_cosine_of_the_second(recipe):
    second, third = (learning_rates(recipe / stage) for stage in STAGES[1:])
    epoch = len(third)
    assert len(second) == 6 * epoch
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule, whole = cosine(optimizer, 7 * epoch), []
    for _ in range(7 * epoch):
        whole.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    found = [second[step] for step in sorted(second)] + [third[step] for step in sorted(third)]
    np.testing.assert_allclose(found, whole, rtol=1e-6)


@pytest.mark.slow
def test_the_third_stage_keeps_head_and_batchnorm(recipe):
    before, after = (
        read_checkpoint(recipe / stage / "checkpoints" / "last.ckpt")["state_dict"]
        for stage in STAGES[1:]
    )
    moved = [
        name
        for name in before
        if ".backbone." in name
        and "running_" in name
        and not torch.equal(before[name], after[name])
    ]
    assert not moved
    # The rate of the last epoch moves the centres only a little; a new head would differ.
    centres = next(name for name in before if name.startswith("loss.") and before[name].ndim == 2)
    torch.testing.assert_close(after[centres], before[centres], rtol=0, atol=0.01)
    assert not torch.equal(after[centres], before[centres])


def test_a_missing_root_is_one_line():
    result = make("recipe", "GLDV1=somewhere")
    assert result.returncode == 2
    assert result.stderr.startswith("error: GLDV2 is missing. Run make recipe GLDV2=FOLDER")


@pytest.mark.slow
def test_a_head_of_different_landmarks_or_another_loss_is_refused(recipe):
    run = recipe / "gldv2_clean"
    with (run / "embedder" / "classes.csv").open() as file:
        classes = [row["landmark_id"] for row in csv.DictReader(file)]
    with pytest.raises(UserError, match="other landmarks"):
        restore_head(nn.Linear(8, 6), run / "embedder", classes[::-1])
    with pytest.raises(UserError, match="head of another loss"):
        restore_head(nn.Linear(8, 6), run / "checkpoints" / "last.ckpt", classes)
    with pytest.raises(UserError, match="finished run"):
        restore_head(nn.Linear(8, 6), recipe / "nothing" / "embedder", classes)


def test_the_ensemble_is_concatenated_with_its_weights(tmp_path):
    """The commands of `make ensemble` on stores written here, without extraction."""
    random, sweep = np.random.default_rng(0), tmp_path / "sweep"
    weights, ids = [0.5, 1, 1, 0.5, 1, 1], ["a", "b", "c"]
    parts = []
    for member in range(6):
        vectors = random.standard_normal((3, 512))
        parts.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        for split in ("query", "gallery", "train"):
            store = sweep / "stores" / f"{split}-{member}"
            store.parent.mkdir(parents=True, exist_ok=True)
            DescriptorStore.write(store, ids, parts[-1].astype("float32"))
    result = make("ensemble", f"ENSEMBLE={sweep}", "EXTRACT=true")
    assert result.returncode == 0, result.stderr + result.stdout
    joined = np.concatenate([w * part for w, part in zip(weights, parts, strict=True)], axis=1)
    joined /= np.linalg.norm(joined, axis=1, keepdims=True)
    for split in ("query", "gallery", "train"):
        vectors = DescriptorStore.open(sweep / "stores" / split).vectors
        assert vectors.shape == (3, 3072)
        np.testing.assert_allclose(vectors, joined, atol=1e-6)
    commands = make("ensemble", f"ENSEMBLE={sweep}", dry=True).stdout
    assert "split=$split" in commands

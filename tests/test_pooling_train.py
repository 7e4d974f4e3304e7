"""Commands with the learned poolings on the toy world: train, extract, and bad input."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from landmark.artifact.descriptors import DescriptorStore

TINY = [
    *("data.landmarks=3", "data.photos=6", "data.scale=0.4", "data.validation=none"),
    *("model=resnet10t", "model.neck=none", "image=px96", "image.sizes=[[96,96]]"),
    *("batch_size=6", "workers=0", "trainer=cpu", "trainer.max_steps=1", "keep=last"),
    "trainer.enable_progress_bar=false",
]
# Overrides and the dimension of the descriptors.
POOLINGS = {
    "salad": (
        ["model.backbone=test_vit", "pooling.clusters=8", "pooling.cluster_dim=4"],
        256 + 8 * 4,
    ),
    "boq": (["model.backbone=test_resnet", "pooling.dim=64", "pooling.rows=2"], 128),
    "dolg": (["pooling.dim=16", "pooling.branch_dim=4", "pooling.output_dim=12"], 12),
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("poolings")


def train(scripts, workdir, run, *options, status=0):
    arguments = [*TINY, *options, f"hydra.run.dir={run}"]
    return scripts.run("train.py", *arguments, cwd=workdir, status=status)


def extract(scripts, workdir, run, output, *options):
    arguments = [f"embedder={run}/embedder", "split=train", f"output={output}", "workers=0"]
    scripts.run("extract.py", *arguments, *options, cwd=workdir)
    return DescriptorStore.open(workdir / output)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_trains_and_extracts(scripts, workdir, name):
    options, dim = POOLINGS[name]
    train(scripts, workdir, name, f"pooling={name}", *options)
    weights = load_file(workdir / name / "embedder" / "weights.safetensors")
    assert any(key.startswith("pooling.") for key in weights)
    store = extract(scripts, workdir, name, f"store-{name}", "extract=single")
    assert store.vectors.shape[1] == dim
    half = extract(scripts, workdir, name, f"bf16-{name}", "extract=single", "precision=bf16")
    cosines = (half.vectors * store.vectors).sum(1)
    assert cosines.min() > 0.999


def test_regional_gem_and_the_maximum_of_scales_describe_with_a_trained_network(scripts, workdir):
    train(scripts, workdir, "gem")
    options = ["init=gem/embedder", "pooling=regional_gem", "trainer.max_epochs=0"]
    options += ["model.relup=0.014"]
    train(scripts, workdir, "superglobal", *options)
    sizes = "extract.scales=[1,1.5]"
    plain = extract(scripts, workdir, "gem", "plain", sizes)
    store = extract(scripts, workdir, "superglobal", "regional", sizes, "extract.combine=max")
    assert json.loads((workdir / "regional" / "meta.json").read_text())["combine"] == "max"
    cosines = (plain.vectors * store.vectors).sum(1)
    assert 0.5 < cosines.min() < np.max(cosines) < 0.9999


def test_too_many_clusters_for_the_images_are_one_line(scripts, workdir):
    options = ["model.backbone=test_vit", "pooling=salad", "pooling.clusters=36"]
    stderr = train(scripts, workdir, "few", *options, status=2).stderr
    words = "error: pooling.clusters=36 needs more than 36 patch tokens, but the map has 36 (6x6)."
    assert stderr.strip().splitlines()[-1].startswith(words)
    assert "Traceback" not in stderr
    stderr = train(scripts, workdir, "token", "pooling=salad", status=2).stderr
    assert "no class token. Pass pooling.token_dim=0" in stderr
    assert len(stderr.strip().splitlines()) == 1

"""The README's commands without any training: frozen network, adapter, search."""

import pytest

from landmark.artifact.descriptors import DescriptorStore
from landmark.cli.store import store


@pytest.mark.slow
def test_an_adapter_is_fitted_and_becomes_part_of_a_frozen_network(scripts, tmp_path):
    world = ["data=toy", "data.landmarks=6", "data.photos=10", "data.scale=0.4"]
    model = ["model=resnet10t", "model.neck=none", "image=longest1024", "image.side=96"]
    options = ["trainer=cpu", "trainer.max_epochs=0", "workers=0", "hydra.run.dir=RUN"]
    scripts.run("train.py", *world, *model, *options, cwd=tmp_path)

    def extract(split, output):
        arguments = ["embedder=RUN/embedder", f"split={split}", f"output={output}", "workers=0"]
        scripts.run("extract.py", *arguments, "precision=32", cwd=tmp_path)
        return DescriptorStore.open(tmp_path / output)

    extract("train", "STORES/train")
    before = extract("query", "STORES/query-frozen")
    scripts.run("fit.py", "fit=linear", "train=STORES/train", "output=ADAPTER", cwd=tmp_path)
    apply = ["apply", str(tmp_path / "ADAPTER")]
    store([*apply, str(before.path), str(tmp_path / "ADAPTED")])
    store([*apply, "--into", str(tmp_path / "RUN/embedder")])
    query, gallery = extract("query", "STORES/query"), extract("gallery", "STORES/gallery")
    assert query.dim == gallery.dim == before.dim
    cosines = (query.vectors * DescriptorStore.open(tmp_path / "ADAPTED").vectors).sum(axis=1)
    assert cosines.min() > 1 - 1e-5
    arguments = ["query=STORES/query", "gallery=STORES/gallery", "output=RANKING"]
    assert "mAP@" in scripts.run("rerank.py", *arguments, cwd=tmp_path).stdout

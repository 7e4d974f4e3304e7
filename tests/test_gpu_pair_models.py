"""Pair models, their fits and the linear adapter on a GPU equal the CPU; see test_gpu.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.local_features import LocalFeatures
from landmark.artifact.partial_local_features import LocalFeatureWriter
from landmark.fit.ames import fit_ames
from landmark.fit.elvis import fit_elvis
from landmark.fit.linear import fit_linear
from landmark.pair import AMES, ELViS
from landmark.pair.scorer import AMESScorer, ChamferScorer, ELViSScorer
from landmark.rerank import Chamfer
from landmark.rerank.pair_model import Photos
from landmark.rerank.stores import Stores
from landmark.search import Flat

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]

DIM, LANDMARKS, PHOTOS = 32, 12, 10
SMALL = {
    "min_positives": 2,
    "min_negatives": 2,
    "triplets": 12,
    "min_descriptors": 6,
    "max_descriptors": 20,
    "epochs": 2,
    "steps_per_epoch": 6,
    "hold_out": 0.34,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> DescriptorStore:
    """Write photos whose descriptors and patches show their landmarks."""
    path = tmp_path_factory.mktemp("gpu") / "store"
    random = np.random.default_rng(0)
    landmarks = np.repeat(np.arange(LANDMARKS), PHOTOS)

    def near(centres: np.ndarray, noise: float) -> np.ndarray:
        rows = centres + noise * random.standard_normal(centres.shape)
        return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)

    vectors = near(random.standard_normal((LANDMARKS, DIM))[landmarks], 1.5)
    ids = [f"photo{row}" for row in range(len(landmarks))]
    DescriptorStore.write(path, ids, vectors, landmarks.astype(str), embedder="e")
    places = random.standard_normal((LANDMARKS, 24, DIM))
    store = DescriptorStore.open(path)
    settings = {"dim": DIM, "dtype": "float16", "columns": 2, "kind": "drawn"}
    with LocalFeatureWriter.writing(store, "patches", **settings) as writer:
        for row, landmark in enumerate(landmarks):
            count = 3 + row % 20  # other counts in each pair
            writer.append(
                LocalFeatures(
                    keypoints=np.zeros((count, 2), np.float32),
                    descriptors=near(places[landmark][:count], 0.7).astype(np.float16),
                    scores=random.random(count).astype(np.float32),
                    size=(9, 9),
                )
            )
    return store


def random_model(build, **keywords):
    torch.manual_seed(0)
    model = build(DIM, **keywords).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def scorers(name: str, device: str):
    """Return a scorer with random weights on a device."""
    if name == "chamfer":
        return ChamferScorer()
    if name == "elvis":
        return ELViSScorer(random_model(ELViS, width=16).to(device))
    bits = 16 if name == "ames_binary" else None
    sizes = {"width": 16, "layers": 2, "hidden": 24, "bits": bits}
    return AMESScorer(random_model(AMES, **sizes).to(device), bf16=name == "ames_bf16")


@pytest.mark.parametrize("name", ["chamfer", "elvis", "ames", "ames_binary", "ames_bf16"])
def test_scores_of_pairs_equal_the_cpu(store, name):
    local, rows = store.local("patches"), np.arange(len(store))
    found = {}
    for device in ("cuda", "cpu"):
        with torch.no_grad():
            scorer = scorers(name, device)

        def prepare(stored):
            return torch.nn.functional.normalize(torch.tensor(stored, dtype=torch.float32), dim=1)

        photos = Photos(scorer, prepare, (local, local), 15, torch.device(device))
        blocks = (rows[:50], rows[50:])
        found[device] = np.concatenate([photos.scores(1, block) for block in blocks])
    assert found["cpu"].std() > 1e-3
    tolerance = 0.05 * np.abs(found["cpu"]).max() if name == "ames_bf16" else 2e-4
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=tolerance, rtol=1e-3)


def test_reranking_by_chamfer_equals_the_cpu(store):
    local = {"patches": store.local("patches")}
    retrieval = Stores.open(query=store.path, gallery=store.path).search(Flat("cpu"), 40)
    retrieval = replace(retrieval, query_local=local, gallery_local=local)
    found, expected = (Chamfer(top=20, device=device)(retrieval) for device in ("cuda", "cpu"))
    assert (found.rows == expected.rows).mean() > 0.99
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize(
    ("fit", "sizes"),
    [(fit_elvis, {"width": 16}), (fit_ames, {"width": 16, "layers": 2, "hidden": 24})],
)
def test_a_fit_of_a_pair_model_equals_the_cpu(store, fit, sizes):
    found, expected = (fit(store, device=device, **SMALL, **sizes) for device in ("cuda", "cpu"))
    losses = [[epoch["loss"] for epoch in one.meta["curve"]] for one in (found, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert found.meta["held_out"]["search"] == pytest.approx(expected.meta["held_out"]["search"])
    for name, weight in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], weight, atol=5e-3, err_msg=name)


def test_a_student_of_a_pair_model_is_fitted(store, tmp_path):
    sizes = {"width": 16, "layers": 2, "hidden": 24, "device": "cuda"}
    fit_ames(store, **SMALL, **sizes).write(tmp_path / "teacher")
    student = fit_ames(store, bits=16, teacher=str(tmp_path / "teacher"), **SMALL, **sizes)
    assert all(np.isfinite(weight).all() for weight in student.weights.values())


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_linear_adapter_equals_the_cpu(store, dropout):
    options = {"epochs": 6, "batch_size": 32, "dropout": dropout}
    found, expected = (fit_linear(store, **options, device=device) for device in ("cuda", "cpu"))
    assert np.abs(expected.weight - np.eye(DIM)).max() > 0.01
    np.testing.assert_allclose(found.weight, expected.weight, atol=2e-3)


def test_the_linear_adapter_chooses_its_epochs(store):
    found, expected = (fit_linear(store, max_epochs=12, device=one) for one in ("cuda", "cpu"))
    assert len(found.meta["curve"]) == len(expected.meta["curve"]) > 2
    for ours, theirs in zip(found.meta["curve"], expected.meta["curve"], strict=True):
        assert ours["map_at_100"] == pytest.approx(theirs["map_at_100"], abs=0.02)

"""Distillation: both forms against naive loops, the teacher's vectors by id, and whole runs."""

import csv
import json
import math
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import toy
from test_train import TINY, weights

from landmark.artifact.descriptors import DescriptorStore
from landmark.data import ImageTable, LandmarkData
from landmark.data.teacher import TeacherVectors
from landmark.error import UserError
from landmark.image import ImageFormat
from landmark.loss import Distil, SupCon
from landmark.loss.auxiliary import AuxiliaryLosses
from landmark.loss.build import build_auxiliary, build_loss
from landmark.sampler import Aspect, Balanced, PerClass

ROOT = Path(__file__).resolve().parents[1]
FORMAT = ImageFormat([[32, 32]], augmentation="strong", smallest=16, multiple=8)


# --- the loss ---


def norm(vector):
    return sum(value * value for value in vector) ** 0.5


def naive_cosine(embeddings, vectors, matrix):
    """Mean of 1 - cos(W x, t), component by component."""
    total = 0.0
    for x, t in zip(embeddings, vectors, strict=True):
        mapped = list(x) if matrix is None else [sum(w * v for w, v in zip(r, x)) for r in matrix]  # noqa: B905
        total = total + 1 - sum(a * b for a, b in zip(mapped, t)) / (norm(mapped) * norm(t))  # noqa: B905
    return total / len(embeddings)


def naive_relational(embeddings, vectors):
    """Equations 4 to 6 of Park et al., with the Huber loss, pair by pair."""
    pairs = [(i, j) for i in range(len(embeddings)) for j in range(i + 1, len(embeddings))]

    def relative(rows):
        unit = [[value / norm(row) for value in row] for row in rows]
        distances = [norm([a - b for a, b in zip(unit[i], unit[j])]) for i, j in pairs]  # noqa: B905
        mean = sum(distances) / len(pairs)
        return [distance / mean for distance in distances]

    total = 0.0
    for one, other in zip(relative(embeddings), relative(vectors), strict=True):
        difference = abs(one - other)
        total = total + (difference**2 / 2 if difference <= 1 else difference - 0.5)
    return total / len(pairs)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(2, 6),
    dim=st.integers(2, 5),
    teacher_dim=st.integers(2, 5),
    weights=st.sampled_from([(1.0, 0.0), (0.0, 1.0), (0.5, 2.0)]),
)
def test_both_forms_and_their_gradients_equal_naive_loops(seed, size, dim, teacher_dim, weights):
    torch.manual_seed(seed)
    embeddings = torch.randn(size, dim, dtype=torch.float64, requires_grad=True)
    vectors = 3 * torch.randn(size, teacher_dim, dtype=torch.float64)
    cosine, relational = weights
    loss = Distil(dim, 0, "STORE", cosine, relational, teacher_dim).double()
    matrix = getattr(loss.map, "weight", None)
    assert (matrix is None) == (cosine == 0 or dim == teacher_dim)
    value, naive = loss(embeddings, vectors), torch.zeros((), dtype=torch.float64)
    if cosine:
        naive = naive + cosine * naive_cosine(embeddings, vectors.tolist(), matrix)
    if relational:
        naive = naive + relational * naive_relational(embeddings, vectors.tolist())
    torch.testing.assert_close(value, naive, rtol=1e-10, atol=1e-12)
    inputs = [embeddings] if matrix is None else [embeddings, matrix]
    for got, expected in zip(
        torch.autograd.grad(value, inputs), torch.autograd.grad(naive, inputs), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


def test_a_student_equal_to_the_teacher_has_no_loss_whatever_the_lengths():
    vectors = torch.nn.functional.normalize(torch.randn(5, 4))
    value = Distil(4, 0, "STORE")(torch.rand(5, 1) * 9 * vectors, vectors)
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_one_photo_has_no_pairs_and_equal_photos_have_finite_gradients():
    one = torch.randn(1, 4, requires_grad=True)
    relational = Distil(4, 0, "STORE", cosine=0.0)
    relational(one, torch.randn(1, 4)).backward()
    assert one.grad.tolist() == [[0.0] * 4]
    same = torch.ones(3, 4, requires_grad=True)
    relational(same, torch.ones(3, 4)).backward()
    assert torch.isfinite(same.grad).all()


def test_half_precision_is_computed_in_float32():
    embeddings = torch.randn(4, 6).half()
    loss = Distil(6, 0, "STORE", teacher_dim=3)
    vectors = torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(embeddings, vectors)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(embeddings.float(), vectors))


def test_a_student_learns_the_teacher_with_and_without_the_map():
    torch.manual_seed(0)
    images, vectors = torch.randn(32, 12), torch.randn(32, 5) @ torch.randn(5, 9)
    for dim in (9, 6):
        student, loss = torch.nn.Linear(12, dim), Distil(dim, 0, "STORE", teacher_dim=9)
        parameters = [*student.parameters(), *loss.parameters()]
        optimizer, values = torch.optim.Adam(parameters, lr=0.02), []
        for _ in range(150):
            value = loss(student(images), vectors)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < 0.5 * values[0]


def test_two_weights_of_0_are_refused():
    with pytest.raises(UserError, match="cosine=0 and relational=0"):
        Distil(4, 0, "STORE", cosine=0.0, relational=0.0)


def test_it_is_added_to_a_loss_of_labels():
    makes = {"distil": partial(Distil, teacher="STORE"), "supcon": SupCon}
    losses = build_auxiliary(makes, {"distil": 2.0, "supcon": 1.0}, 4, np.ones(2), teacher_dim=3)
    assert isinstance(losses, AuxiliaryLosses)
    assert losses.losses["distil"].map.weight.shape == (3, 4)
    embeddings, labels, vectors = torch.randn(4, 4), torch.tensor([0, 0, 1, 1]), torch.randn(4, 3)
    values = losses(embeddings, labels, vectors)
    assert values["distil"] == losses.losses["distil"](embeddings, vectors)
    assert values["supcon"] == losses.losses["supcon"](embeddings, labels)
    with pytest.raises(ValueError, match="no teacher"):
        losses(embeddings, labels)
    assert isinstance(build_loss(makes["distil"], 4, np.ones(2)).map, torch.nn.Identity)


# --- the teacher's vectors ---


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("toy"))


def unit(random, count, dim):
    vectors = random.standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_teacher(folder, ids, dim=6, dtype=np.float32, **meta):
    """A store of these photos and others, in another order; return it and vector by id."""
    random = np.random.default_rng(0)
    shuffled = [*random.permutation(np.asarray(ids, object)), "another"]
    vectors = unit(random, len(shuffled), dim).astype(dtype)
    DescriptorStore.write(folder, shuffled, vectors, **meta)
    return DescriptorStore.open(folder), dict(zip(shuffled, vectors, strict=True))


def data_of(source, teacher, sampler=Aspect, **options):
    data = LandmarkData(
        source, FORMAT, sampler, **{"batch_size": 4, "workers": 0, "teacher": teacher, **options}
    )
    data.setup()
    return data


@pytest.mark.parametrize(
    ("sampler", "workers"),
    [
        (Aspect, 0),
        (Aspect, 2),
        (Balanced, 0),
        (partial(PerClass, classes_per_batch=2, photos_per_class=2), 0),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_each_augmented_photo_comes_with_its_teachers_vector(
    source, tmp_path, sampler, workers, dtype
):
    ids = source.read("train").rows["id"]
    teacher, vector_of = write_teacher(tmp_path / "store", ids, dtype=dtype)
    data = data_of(source, teacher, sampler, workers=workers)
    seen = set()
    for images, _labels, rows, vectors in data.train_dataloader():
        assert vectors.dtype == torch.float32
        assert len(images) == len(vectors)
        names = data.train_table.rows["id"].iloc[rows.numpy()]
        expected = np.stack([vector_of[name] for name in names]).astype(np.float32)
        np.testing.assert_array_equal(vectors.numpy(), expected)
        seen |= set(names)
    assert len(seen) > 5
    for loader in (data.plain_train_dataloader(), *data.val_dataloader()):
        assert len(next(iter(loader))) == 3


def test_missing_photos_are_named_and_counted(source, tmp_path):
    ids = source.read("train").rows["id"].tolist()
    teacher, _ = write_teacher(tmp_path / "some", [*ids[:3], *ids[5:]])
    with pytest.raises(UserError) as raised:
        data_of(source, teacher)
    message = f"has no vector of '{ids[3]}' (2 of {len(ids)} train photos). Extract all train"
    assert message in str(raised.value)
    teacher, _ = write_teacher(tmp_path / "none", ["x", "y"])
    with pytest.raises(UserError, match=rf"has none of the {len(ids)} train photos, such as"):
        data_of(source, teacher)


def test_vectors_that_are_not_of_unit_length_are_refused(source, tmp_path):
    ids = source.read("train").rows["id"]
    write_teacher(tmp_path / "store", ids)
    vectors = np.load(tmp_path / "store" / "vectors.npy", mmap_mode="r+")
    vectors[2] *= 3
    vectors.flush()
    with pytest.raises(UserError, match="has length 3"):
        data_of(source, DescriptorStore.open(tmp_path / "store"))


def test_photos_that_the_extraction_skipped_are_accepted_only_if_training_skips_them(tmp_path):
    rows = pd.DataFrame({"id": ["a", "broken"], "path": ["a.jpg", "b.jpg"]})
    with DescriptorStore.writing(tmp_path / "store", ["a"], 2, skipped=rows.iloc[1:]) as vectors:
        vectors[0] = [0.6, 0.8]
    store = DescriptorStore.open(tmp_path / "store")
    with pytest.raises(UserError, match="no vector of 'broken'"):
        TeacherVectors(store, ImageTable(tmp_path, rows))
    teacher = TeacherVectors(store, ImageTable(tmp_path, rows, bad_image="skip"))
    np.testing.assert_allclose(teacher[0], [0.6, 0.8])
    with pytest.raises(UserError, match="has no vector of this photo"):
        teacher[1]


def test_a_spawned_worker_maps_the_vectors_itself(tmp_path):
    ids = [f"photo {number}" for number in range(400)]
    store, vector_of = write_teacher(tmp_path / "store", ids, dim=64)
    rows = pd.DataFrame({"id": ids, "path": "x.jpg"})
    text = pickle.dumps(TeacherVectors(store, ImageTable(tmp_path, rows)))
    assert len(text) < 400 * 64  # the vectors are four times as large
    np.testing.assert_array_equal(pickle.loads(text)[7], vector_of["photo 7"])


# --- runs ---


@pytest.fixture(scope="module")
def world(scripts, tmp_path_factory):
    """A folder with the toy world, the same photos without landmarks, and teachers of both."""
    folder = tmp_path_factory.mktemp("distil")
    scripts.run(
        "train.py",
        *TINY,
        "trainer.max_epochs=0",
        "model=resnet10t",
        "hydra.run.dir=first",
        cwd=folder,
    )
    (root,) = (folder / "toy").iterdir()
    photos = sorted(str(path.relative_to(root)) for path in root.glob("*/*.jpg"))
    write_teacher(folder / "teacher", photos, dim=6)
    pd.DataFrame({"id": photos, "path": photos, "split": "train"}).to_csv(
        root / "table.csv", index=False
    )
    return folder, root


def losses_of(folder, name):
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_a_run_with_labels_logs_the_distillation_and_keeps_the_map_out_of_the_embedder(
    scripts, world
):
    folder, _ = world
    options = ["auxiliary=[distil]", "auxiliary.distil.teacher=teacher", "trainer.max_epochs=2"]
    options += ["auxiliary.distil.weight=0.5", "trainer.log_every_n_steps=1", "keep=last"]
    result = scripts.run("train.py", *TINY, *options, "hydra.run.dir=labelled", cwd=folder)
    assert "arcface + 0.5 distil" in result.stdout
    run = folder / "labelled"
    total, main, distil = (
        np.array(losses_of(run, f"train/{name}")) for name in ("loss", "arcface", "distil")
    )
    np.testing.assert_allclose(total, main + 0.5 * distil, rtol=1e-5)
    assert (distil > 0).all()
    assert not any("map" in name for name in weights(run))
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["auxiliary.losses.distil.map.weight"].shape == (6, 16)


UNLABELLED = ["data=table", "loss=distil", "loss.teacher=teacher", "keep=last", "image=px96"]


def test_photos_without_landmarks_train_in_16_bits(scripts, world):
    folder, root = world
    tiny = [option for option in TINY if not option.startswith(("data.", "image=px96"))]
    options = [*tiny, *UNLABELLED, f"data.root={root}", "trainer.max_epochs=2"]
    options += ["trainer.log_every_n_steps=1", "trainer.precision=bf16-mixed"]
    result = scripts.run("train.py", *options, "hydra.run.dir=unlabelled", cwd=folder)
    assert result.stdout.endswith("wrote unlabelled\n")
    losses = losses_of(folder / "unlabelled", "train/loss")
    assert len(losses) > 5
    assert all(map(math.isfinite, losses))
    classes = (folder / "unlabelled" / "embedder" / "classes.csv").read_text()
    assert classes.splitlines() == ["label,landmark_id"]


def test_a_loss_of_labels_still_needs_them(in_process, world):
    folder, root = world
    tiny = [option for option in TINY if not option.startswith(("data.", "image=px96"))]
    options = [*tiny, "data=table", f"data.root={root}", "image=px96", "keep=last"]
    options += ["auxiliary=[distil]", f"auxiliary.distil.teacher={folder / 'teacher'}"]
    status, _, printed = in_process("train.py", *options)
    assert status == 2
    assert "has no column landmark_id" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["auxiliary=[distil]"], "missing required setting 'auxiliary.distil.teacher'"),
        (["loss=distil"], "missing required setting 'loss.teacher'"),
        (["loss=distil", "loss.teacher=nowhere"], "nowhere"),
        (["loss=distil", "loss.teacher=x", "auxiliary=[distil]"], "auxiliary.distil.teacher"),
        (["loss=distil", "loss.teacher=x", "loss.cosine=-1"], "loss.cosine=-1 is not valid"),
    ],
)
def test_settings_are_refused_in_one_line(in_process, options, message):
    status, _, printed = in_process("train.py", *TINY, *options)
    assert status == 2
    assert message in printed
    assert printed.strip().count("\n") == 0


def test_two_ranks_learn_what_one_process_does(scripts, world):
    """The step of both ranks together is that of one process with both batches."""
    folder, _ = world
    still = ["model.neck=none", "task.freeze_batchnorm=true", "keep=last", "optimizer=sgd"]
    still += ["optimizer.momentum=0", "trainer.max_steps=2", "image.augmentation=none"]
    still += ["auxiliary=[distil]", "auxiliary.distil.teacher=teacher", "sampler.drop_last=true"]
    still += ["trainer.log_every_n_steps=1", "model=resnet10t"]
    one = [*TINY, *still, "batch_size=8", "hydra.run.dir=alone"]
    two = [*TINY, *still, "batch_size=4", "trainer=ddp_cpu", "trainer.devices=2"]
    scripts.run("train.py", *one, cwd=folder)
    scripts.run(
        "train.py", *two, "trainer.enable_progress_bar=false", "hydra.run.dir=two", cwd=folder
    )
    first, second = weights(folder / "alone"), weights(folder / "two")
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_resumes_equal_to_an_uninterrupted_one(world):
    folder, _ = world
    options = [*TINY, "model=resnet10t", "auxiliary=[distil]", "auxiliary.distil.teacher=teacher"]
    options += ["trainer.max_epochs=2", "save_every_steps=2"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "killed_runs.py"), "SIGKILL", "2", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    runs = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(runs) == 2, result.stderr
    assert all(run["stopped"] and run["same"] for run in runs), (runs, result.stderr)

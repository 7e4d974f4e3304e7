"""User errors are one line that names the file or key, with status 2 and no traceback."""

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_data_bad_images import SPOIL

from landmark.artifact.descriptors import DescriptorStore
from landmark.error import UserError
from landmark.task.checkpoints import AtomicCheckpointIO

SMALL = [
    "model=resnet10t",
    "model.embedding_dim=16",
    "image=px96",
    "image.sizes=[[32,32]]",
    "batch_size=4",
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.max_epochs=1",
    "hydra.run.dir=run",
]
FOLDER = [*SMALL, "data=folder", "data.root=photos"]


def check_refused(scripts, script, *overrides, cwd, words):
    """Check that the script prints one line with all `words` and leaves the folder unchanged."""
    before = sorted(cwd.rglob("*"))
    result = scripts.run(script, *overrides, cwd=cwd, status=2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], lines[0]
    left = [
        path
        for path in sorted(cwd.rglob("*"))
        if path not in before and "toy" not in path.parts and path.is_file()
    ]
    # Hydra writes the settings of a failed run; no other file may exist.
    assert all(".hydra" in path.parts for path in left), left


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write photos/<landmark>/<number>.jpg, three landmarks of five noisy photos."""
    root = tmp_path_factory.mktemp("folders")
    random = np.random.default_rng(0)
    for landmark in "abc":
        (root / "photos" / landmark).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "photos" / landmark / f"{number}.jpg")
    return root


@pytest.fixture
def workdir(folders, tmp_path):
    shutil.copytree(folders / "photos", tmp_path / "photos")
    return tmp_path


@pytest.fixture(scope="module")
def trained_run(folders, scripts):
    """Return a run folder with an embedder."""
    scripts.run("train.py", *FOLDER, "workers=0", cwd=folders)
    return folders / "run"


def store(path, count=4, dim=8, seed=0, **options):
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"{path.name}-{number}" for number in range(count)]
    DescriptorStore.write(path, ids, vectors, **options)
    return path


def test_no_photos_and_no_folder(scripts, tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    check_refused(scripts, "train.py", *FOLDER, cwd=tmp_path, words=["photos contains no photos"])
    missing = [*FOLDER, "data.root=nowhere"]
    check_refused(
        scripts, "train.py", *missing, cwd=tmp_path, words=["nowhere is not a folder", "data.root"]
    )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("path,landmark_id\na/0.jpg,a\n", ["table.csv", "no column id"]),
        ("id,path,landmark_id\nx,a/0.jpg,a\nx,a/1.jpg,a\n", ["table.csv", "'x'", "duplicate"]),
        ("id,path,landmark_id\nx,../a/0.jpg,a\n", ["table.csv", "../a/0.jpg", "outside"]),
        ("id,path,landmark_id\nx,/etc/passwd,a\n", ["table.csv", "/etc/passwd", "outside"]),
        ("", ["table.csv"]),
    ],
)
def test_invalid_tables(scripts, workdir, table, words):
    (workdir / "photos" / "table.csv").write_text(table)
    overrides = [*SMALL, "data=table", "data.root=photos"]
    check_refused(scripts, "train.py", *overrides, cwd=workdir, words=words)


@pytest.mark.parametrize(("kind", "workers"), [*((kind, 0) for kind in SPOIL), ("truncated", 1)])
def test_a_bad_photo_is_named(scripts, workdir, kind, workers):
    for number in range(5):
        SPOIL[kind](workdir / "photos" / "b" / f"{number}.jpg")
    overrides = [*FOLDER, f"workers={workers}"]
    check_refused(
        scripts, "train.py", *overrides, cwd=workdir, words=["photos/b/", "data.bad_image=skip"]
    )


def test_bad_photos_are_skipped_counted_and_listed(scripts, workdir):
    bad = [f"{'abc'[number % 3]}/{number // 3 + 1}.jpg" for number in range(len(SPOIL))]
    for spoil, photo in zip(SPOIL.values(), bad, strict=True):
        spoil(workdir / "photos" / photo)
    result = scripts.run("train.py", *FOLDER, "data.bad_image=skip", cwd=workdir)
    assert f"Skipped {len(bad)} photos" in result.stdout
    listed = pd.read_csv(workdir / "run" / "bad_images.csv")
    assert sorted(listed["path"]) == sorted(bad)
    assert listed["reason"].str.len().between(5, 120).all()


def test_extraction_leaves_bad_photos_out_and_shifts_no_row(scripts, workdir, trained_run):
    extract = [
        f"embedder={trained_run / 'embedder'}",
        "data=folder",
        "data.root=photos",
        "workers=0",
    ]
    scripts.run("extract.py", *extract, "output=whole", cwd=workdir)
    SPOIL["truncated"](workdir / "photos" / "a" / "1.jpg")
    SPOIL["empty"](workdir / "photos" / "b" / "3.jpg")
    check_refused(scripts, "extract.py", *extract, "output=store", cwd=workdir, words=["b/3.jpg"])
    result = scripts.run("extract.py", *extract, "output=store", "data.bad_image=skip", cwd=workdir)
    assert "Skipped 2 photos" in result.stdout
    whole, got = (DescriptorStore.open(workdir / name) for name in ("whole", "store"))
    kept = [photo for photo in whole.ids if photo not in ("a/1.jpg", "b/3.jpg")]
    assert got.ids.tolist() == kept
    rows = [whole.ids.tolist().index(photo) for photo in kept]
    np.testing.assert_allclose(got.vectors, whole.vectors[rows], atol=1e-5)
    listed = pd.read_csv(workdir / "store" / "skipped.csv")
    assert sorted(listed["path"]) == ["a/1.jpg", "b/3.jpg"]


def test_one_photo_per_landmark_gives_no_query(scripts, workdir):
    for landmark in "abc":
        for number in range(1, 5):
            (workdir / "photos" / landmark / f"{number}.jpg").unlink()
    check_refused(scripts, "train.py", *FOLDER, cwd=workdir, words=["keep=best", "keep=last"])


def test_a_query_without_a_relevant_photo_in_the_gallery(scripts, tmp_path):
    for name, landmark in (("query", "a"), ("gallery", "b")):
        store(tmp_path / name, landmark_ids=[landmark] * 4)
    overrides = ["query=query", "gallery=gallery", "output=out"]
    check_refused(scripts, "rerank.py", *overrides, cwd=tmp_path, words=["no query's landmark"])


def test_inconsistent_stores(scripts, tmp_path):
    store(tmp_path / "gallery")
    store(tmp_path / "narrow", dim=4)
    store(tmp_path / "other", embedder="another")
    store(tmp_path / "one", embedder="one")
    search = ["output=out", "k=2"]
    check_refused(
        scripts,
        "rerank.py",
        *search,
        "query=narrow",
        "gallery=gallery",
        cwd=tmp_path,
        words=["narrow", "4 dimensions", "8"],
    )
    check_refused(
        scripts,
        "rerank.py",
        *search,
        "query=other",
        "gallery=one",
        cwd=tmp_path,
        words=["other", "embedder", "allow_mixed=true"],
    )
    check_refused(
        scripts,
        "rerank.py",
        *search,
        "query=nowhere",
        "gallery=one",
        cwd=tmp_path,
        words=["nowhere"],
    )


def test_damaged_stores(scripts, tmp_path):
    for name in ("query", "gallery", "short"):
        store(tmp_path / name)
    ids = pd.read_parquet(tmp_path / "short" / "ids.parquet")
    ids.iloc[:3].to_parquet(tmp_path / "short" / "ids.parquet", index=False)
    search = ["query=query", "output=out", "k=2"]
    check_refused(
        scripts,
        "rerank.py",
        *search,
        "gallery=short",
        cwd=tmp_path,
        words=["short", "3 ids", "4 rows"],
    )
    vectors = np.load(tmp_path / "gallery" / "vectors.npy")
    vectors[2, 3] = np.nan
    np.save(tmp_path / "gallery" / "vectors.npy", vectors)
    check_refused(
        scripts,
        "rerank.py",
        *search,
        "gallery=gallery",
        cwd=tmp_path,
        words=["'gallery-2'", "finite"],
    )


def test_unknown_keys_and_choices(scripts, tmp_path):
    for override, words in {
        "loss=arcfac": ["loss=arcfac", "Did you mean arcface?", "cosface"],
        "loss.margn=1": ["loss.margn", "Did you mean margin?"],
        "modle=fishnet": ["modle", "Did you mean model?"],
        "data.bad_image=maybe": ["data.bad_image=maybe", "one of error, skip"],
    }.items():
        check_refused(scripts, "train.py", override, cwd=tmp_path, words=words)


class _Bang:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


def test_a_pickle_of_something_else_is_not_a_checkpoint(scripts, workdir):
    (workdir / "evil.ckpt").write_bytes(pickle.dumps(_Bang()))
    torch.save({"state_dict": {"a": torch.ones(2)}}, workdir / "poor.ckpt")
    for name in ("evil", "poor"):
        overrides = [f"embedder={name}.ckpt", "data=folder", "data.root=photos", "output=out"]
        check_refused(scripts, "extract.py", *overrides, cwd=workdir, words=[f"{name}.ckpt"])
        check_refused(
            scripts, "train.py", *FOLDER, f"init={name}.ckpt", cwd=workdir, words=[f"{name}.ckpt"]
        )
    assert not (workdir / "executed").exists()
    (workdir / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(workdir / "evil.ckpt", workdir / "run" / "checkpoints" / "last.ckpt")
    check_refused(scripts, "train.py", *FOLDER, cwd=workdir, words=["last.ckpt"])
    assert not (workdir / "executed").exists()


def test_steps_between_checkpoints_are_at_least_one(scripts, workdir):
    wrong = [*FOLDER, "save_every_steps=0"]
    check_refused(scripts, "train.py", *wrong, cwd=workdir, words=["save_every_steps=0", "null"])


def test_unwritable_outputs(scripts, workdir, trained_run):
    (workdir / "file").write_text("")
    run = [*FOLDER, "hydra.run.dir=file/run"]
    check_refused(scripts, "train.py", *run, cwd=workdir, words=["file/run", "Not a directory"])
    extract = [f"embedder={trained_run / 'embedder'}", "data=folder", "data.root=photos"]
    check_refused(
        scripts, "extract.py", *extract, "output=file/store", cwd=workdir, words=["file/store"]
    )
    store(workdir / "query")
    search = ["query=query", "gallery=query", "k=2", "output=file/out"]
    check_refused(scripts, "rerank.py", *search, cwd=workdir, words=["file/out"])


def test_a_full_disk_stops_training_and_keeps_the_previous_checkpoint(disk, tmp_path):
    file = disk / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"weights": torch.ones(2000)}, file)
    with pytest.raises(UserError, match=r"last\.ckpt: cannot write the checkpoint \(No space"):
        writer.save_checkpoint({"weights": torch.ones(20_000)}, file)
    assert torch.load(file, weights_only=True)["weights"].sum() == 2000
    assert [path.name for path in disk.iterdir()] == ["last.ckpt"]


def test_a_run_on_a_full_disk_is_one_line(scripts, workdir, disk):
    run = [*FOLDER, "workers=0", f"hydra.run.dir={disk}/run"]
    result = scripts.run("train.py", *run, cwd=workdir, status=2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert "No space left" in lines[0]


def test_a_setting_outside_its_range_in_a_resumed_run(scripts, workdir):
    scripts.run("train.py", *FOLDER, "workers=0", cwd=workdir)
    other = [*FOLDER, "loss.margin=0.4"]
    check_refused(
        scripts, "train.py", *other, cwd=workdir, words=["run", "loss.margin", "overwrite=true"]
    )
    again = scripts.run("train.py", *FOLDER, cwd=workdir)
    assert "is up to date" in again.stdout
    assert json.loads((workdir / "run" / "result.json").read_text())["settings"]["seed"] == 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["batch_size=1"],
            ["batch_size=1: BatchNorm in the neck", "model.neck=none"],
        ),
        (["trainer.devices=99"], ["trainer.devices=99 is more than 4 processes for each of"]),
        (["trainer.max_epochs=-1"], ["trainer.max_epochs=-1", "trainer.max_steps"]),
        (["trainer.strategy=none"], ["trainer: ", "strategy='none'"]),
        (["trainer.accelerator=abacus"], ["trainer: ", "abacus"]),
        (["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"], ["optimizer: Nes"]),
        (
            ["callback=early_stopping", "task.k=10"],
            ["callback.early_stopping.monitor=val/map_at_100", "val/map_at_10"],
        ),
        (
            ["+trainer.val_check_interval=1000"],
            ["trainer.val_check_interval=1000 is more than the"],
        ),
        (
            ["batch_size=1", "model.neck=none", "image.sizes=[[8,8]]"],
            ["BatchNorm cannot learn from a batch of one photo", "batch_size=2"],
        ),
    ],
    ids=" ".join,
)
def test_a_setting_that_cannot_train(scripts, workdir, overrides, words):
    check_refused(scripts, "train.py", *FOLDER, "workers=0", *overrides, cwd=workdir, words=words)


def test_a_model_without_batchnorm_in_the_neck_trains_photo_by_photo(scripts, workdir):
    scripts.run(
        "train.py",
        *FOLDER,
        "workers=0",
        "batch_size=1",
        "model.neck=none",
        "image.sizes=[[96,96]]",
        cwd=workdir,
    )
    assert (workdir / "run" / "embedder" / "weights.safetensors").is_file()


def test_folders_of_any_name_are_read_and_written(scripts, workdir):
    for number, name in enumerate(["my photos (1)", "c,d = é"]):
        (workdir / "photos").rename(workdir / name)
        run = f"runs ({number})/it's,1"
        overrides = [one for one in FOLDER if "root=" not in one and "run.dir" not in one]
        overrides += [f"data.root={name}", f"hydra.run.dir={run}", "trainer.max_epochs=0"]
        scripts.run("train.py", *overrides, "workers=0", cwd=workdir)
        embedder = f"{run}/embedder"
        scripts.run(
            *("extract.py", f"embedder={embedder}", "split=gallery", f"output=store {number}"),
            *("workers=0", "extract.scales=[1]"),
            cwd=workdir,
        )
        assert len(DescriptorStore.open(workdir / f"store {number}").ids) > 0
        (workdir / name).rename(workdir / "photos")

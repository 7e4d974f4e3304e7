"""End to end on a tiny toy world: train, extract, search, re-rank, submit."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.artifact.submission import read_retrieval
from landmark.cli.compare import comparison
from landmark.cli.submit import check_submission
from landmark.error import UserError

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "data.landmarks=5",
    "data.photos=12",
    "data.scale=0.5",
    "model=resnet18",
    "model.embedding_dim=16",
    "image=px96",
    "image.sizes=[[64,64]]",
    "batch_size=8",
    "workers=0",
    "trainer=cpu",
    "trainer.enable_progress_bar=false",
]


def weights(folder):
    return load_file(folder / "embedder" / "weights.safetensors")


def assert_same_weights(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], msg=lambda text, n=name: f"{n}: {text}", **tolerance
        )


@pytest.fixture(scope="module")
def workdir(scripts, tmp_path_factory):
    """Return a folder with one trained run and its stores."""
    cwd = tmp_path_factory.mktemp("road")
    result = scripts.run(
        "train.py",
        *TINY,
        "trainer.max_epochs=2",
        "callback=ema",
        "callback.ema.decay=0.9",
        "hydra.run.dir=runs/one",
        cwd=cwd,
    )
    (cwd / "printed.txt").write_text(result.stdout)
    for split in ("query", "gallery", "train"):
        scripts.run(
            "extract.py",
            "embedder=runs/one/embedder",
            f"split={split}",
            f"output=stores/{split}",
            "workers=0",
            "extract.scales=[1,1.5]",
            cwd=cwd,
        )
    return cwd


def test_a_run_prints_its_summary_and_finally_its_output(scripts, workdir):
    lines = (workdir / "printed.txt").read_text().splitlines()
    assert any(line.startswith("photos") and "5 landmarks" in line for line in lines)
    assert any(line.startswith("steps") and "2 epochs" in line for line in lines)
    assert lines[-1] == "wrote runs/one"


def test_the_run_folder_has_the_documented_files(scripts, workdir):
    folder = workdir / "runs" / "one"
    assert (folder / ".hydra" / "config.yaml").is_file()
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows if row["val/map_at_100"]] == ["0", "1"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
    assert sorted(path.name for path in (folder / "embedder").iterdir()) == [
        "classes.csv",
        "embedder.yaml",
        "weights.safetensors",
    ]
    for name in ("curves.png", "hardest.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 200
    assert not any(name.startswith("loss") for name in weights(folder))
    description = yaml.safe_load((folder / "embedder" / "embedder.yaml").read_text())
    assert description["model"]["embedding_dim"] == 16
    assert description["image"]["interpolation"] == "bicubic"
    assert len((folder / "embedder" / "classes.csv").read_text().splitlines()) == 6


def test_a_checkpoint_has_only_tensors_and_plain_values(scripts, workdir):
    checkpoint = torch.load(workdir / "runs/one/checkpoints/last.ckpt", weights_only=True)
    assert json.loads(checkpoint["settings"])["batch_size"] == 8
    assert "current_model_state" in checkpoint


def test_descriptors_equal_the_embedders_in_the_order_of_the_table(scripts, workdir):
    from landmark.data import Toy
    from landmark.model.persist import load_embedder

    store = DescriptorStore.open(workdir / "stores" / "query")
    table = Toy(workdir / "toy", landmarks=5, photos=12, scale=0.5).read("query")
    assert store.ids.tolist() == table.rows["id"].tolist()
    assert store.landmark_ids.tolist() == table.rows["landmark_id"].tolist()
    assert store.meta["scales"] == [1.0, 1.5]
    embedder, _ = load_embedder(workdir / "runs/one/embedder")
    for row in range(len(store)):
        photo = Image.open(table.root / table.rows["path"][row])
        total = 0
        for side in (64, 96):
            resized = photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            image = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
            with torch.no_grad():
                total = total + embedder(image.float() / 255)
        expected = torch.nn.functional.normalize(total, dim=1)[0].numpy()
        # Reduced decoding differs from a full decode by less than a grey level on average.
        assert expected @ store.vectors[row] > 0.995


def test_a_checkpoint_extracts_the_same_as_its_embedder_folder(scripts, workdir):
    scripts.run(
        "extract.py",
        "embedder=runs/one/checkpoints/best.ckpt",
        "split=query",
        "workers=0",
        "output=stores/again",
        "extract.scales=[1,1.5]",
        cwd=workdir,
    )
    one, other = (DescriptorStore.open(workdir / "stores" / name) for name in ("query", "again"))
    np.testing.assert_array_equal(one.vectors, other.vectors)


def test_half_precision_vectors_and_flip(scripts, workdir):
    scripts.run(
        "extract.py",
        "embedder=runs/one/embedder",
        "split=query",
        "workers=0",
        "dtype=float16",
        "extract=single",
        "extract.flip=true",
        "output=stores/half",
        cwd=workdir,
    )
    store = DescriptorStore.open(workdir / "stores" / "half")
    assert store.vectors.dtype == np.float16
    assert store.meta["flip"] is True


def test_the_chain_prints_one_line_per_step_and_writes_a_submission(scripts, workdir):
    result = scripts.run(
        "rerank.py",
        "query=stores/query",
        "gallery=stores/gallery",
        "train=stores/train",
        "rerank=[alpha_qe,two_stage]",
        "rerank.alpha_qe.n=3",
        "output=rankings",
        cwd=workdir,
    )
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if "mAP@100" in line] == [
        "search",
        "alpha_qe",
        "two_stage",
    ]
    assert lines[-1] == "wrote rankings"
    rankings = Rankings.open(workdir / "rankings")
    assert [step["step"] for step in rankings.meta["steps"]] == ["search", "alpha_qe", "two_stage"]
    submission = read_retrieval(workdir / "rankings" / "submission.csv")
    assert list(submission) == rankings.query_ids.tolist()
    table = comparison([("trained", str(workdir / "rankings"))])
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["trained", "+", "+"]


def test_a_submission_is_checked_before_it_is_sent(scripts, workdir):
    folder = workdir / "handed"
    folder.mkdir()
    for name in ("query", "gallery"):
        (folder / name).symlink_to(workdir / "stores" / name)
    scripts.run(
        "rerank.py",
        f"query={folder}/query",
        f"gallery={folder}/gallery",
        f"output={folder}/ranking",
        cwd=workdir,
    )
    assert str(folder / "submission.csv") in check_submission(folder)
    made = folder / "ranking" / "submission.csv"
    made.write_text(made.read_text().replace(" ", " nowhere.jpg ", 1))
    with pytest.raises(UserError, match=r"nowhere\.jpg"):
        check_submission(folder)


def test_a_different_setting_does_not_resume(scripts, workdir):
    result = scripts.run(
        "train.py",
        *TINY,
        "trainer.max_epochs=2",
        "callback=ema",
        "callback.ema.decay=0.9",
        "hydra.run.dir=runs/one",
        "loss.margin=0.5",
        cwd=workdir,
        status=2,
    )
    assert "loss.margin" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_zero_epochs_write_an_untrained_embedder(scripts, workdir):
    scripts.run(
        "train.py", *TINY, "trainer.max_epochs=0", "hydra.run.dir=runs/untrained", cwd=workdir
    )
    assert not (workdir / "runs/untrained/checkpoints").exists()
    assert weights(workdir / "runs/untrained").keys() == weights(workdir / "runs/one").keys()


def test_a_run_starts_from_an_earlier_embedder(scripts, workdir):
    scripts.run(
        "train.py",
        *TINY,
        "trainer.max_epochs=0",
        "init=runs/one/embedder",
        "hydra.run.dir=runs/from_one",
        cwd=workdir,
    )
    assert_same_weights(
        weights(workdir / "runs/one"), weights(workdir / "runs/from_one"), rtol=0, atol=0
    )
    result = scripts.run(
        "train.py",
        *TINY,
        "trainer.max_epochs=0",
        "init=runs/one/embedder",
        "model.embedding_dim=8",
        cwd=workdir,
        status=2,
    )
    assert "init=runs/one/embedder" in result.stderr


def test_each_job_of_a_sweep_has_its_folder(scripts, workdir):
    scripts.run(
        "train.py",
        "-m",
        "loss=arcface,cosface",
        *TINY,
        "trainer.max_epochs=0",
        "hydra.sweep.dir=runs/sweep",
        cwd=workdir,
    )
    made = sorted((workdir / "runs/sweep").iterdir())
    folders = [path for path in made if path.is_dir()]
    assert [path.name for path in folders] == ["0", "1"]
    for folder, loss in zip(folders, ("ArcFace", "CosFace"), strict=True):
        assert (folder / "embedder" / "weights.safetensors").is_file()
        assert loss in (folder / ".hydra" / "config.yaml").read_text()


def test_other_loggers_write_in_addition_to_the_csv(scripts, workdir):
    scripts.run(
        "train.py",
        *TINY,
        "trainer.max_epochs=1",
        "logger=tensorboard",
        "hydra.run.dir=runs/logged",
        cwd=workdir,
    )
    assert (workdir / "runs/logged/metrics.csv").is_file()
    events = b"".join(
        path.read_bytes() for path in (workdir / "runs/logged/tensorboard").glob("events*")
    )
    for name in ("val/map_at_100", "curves", "hardest"):
        assert name.encode() in events

"""A training is never lost at its end, and a damaged last.ckpt says what to do."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from landmark.data import batches
from landmark.data.size_cache import photo_sizes
from landmark.error import UserError
from landmark.task.checkpoints import AtomicCheckpointIO
from landmark.task.run_folder import checkpoint_to_resume
from landmark.task.training import Run, _load_kept


def write(path, value):
    weights = {f"embedder.{name}": torch.full((2,), value) for name in ("weight",)}
    AtomicCheckpointIO().save_checkpoint({"state_dict": weights, "global_step": 7}, path)


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


@pytest.mark.parametrize(
    ("best", "score", "expected", "words"),
    [
        ("present", 0.5, 1.0, None),
        ("missing", 0.5, 2.0, "best.ckpt is missing"),
        ("damaged", 0.5, 2.0, "best.ckpt is damaged"),
        ("present", None, 2.0, "no validation has a score"),
    ],
)
def test_without_a_best_checkpoint_the_last_is_kept(tmp_path, capsys, best, score, expected, words):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    write(folder / "last.ckpt", 2.0)
    if best != "missing":
        write(folder / "best.ckpt", 1.0)
    if best == "damaged":
        (folder / "best.ckpt").write_bytes(b"half")
    embedder = Embedder()
    kept = _load_kept(embedder, Run(tmp_path, {}, "", "best", None), score)
    assert embedder.weight.tolist() == [expected] * 2
    assert kept == ("best" if words is None else "last")
    printed = capsys.readouterr().out
    assert printed == "" if words is None else words in printed and "last.ckpt" in printed


def test_without_any_checkpoint_the_weights_in_memory_are_kept(tmp_path, capsys):
    embedder = Embedder()
    assert _load_kept(embedder, Run(tmp_path, {}, "", "last", None), None) == "last"
    assert "has the weights of the last step" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "other"])
def test_a_damaged_last_checkpoint_says_what_to_do(tmp_path, damage):
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    write(last, 2.0)
    content = last.read_bytes()
    if damage == "other":
        torch.save([1, 2], last)
    else:
        texts = {"empty": b"", "truncated": content[: len(content) // 2], "text": b"hello"}
        last.write_bytes(texts[damage])
    with pytest.raises(UserError, match=r"last\.ckpt is damaged .*overwrite=true to start over\."):
        checkpoint_to_resume(tmp_path, {})
    write(last.with_name("best.ckpt"), 1.0)
    with pytest.raises(UserError, match=r"or init=.*best\.ckpt \(step 7\) with another hydra"):
        checkpoint_to_resume(tmp_path, {})


def test_a_checkpoint_damaged_in_a_tensor_is_one_line(tmp_path):
    last = tmp_path / "last.ckpt"
    content = {"state_dict": {"a": torch.arange(4000.0)}, "global_step": 1}
    AtomicCheckpointIO().save_checkpoint(content, last)
    data = bytearray(last.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = b"x" * 64
    last.write_bytes(data)
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        AtomicCheckpointIO().load_checkpoint(last, weights_only=True)


@pytest.mark.parametrize("kind", ["file", "below a file", "no home"])
def test_without_a_cache_folder_sizes_are_read_and_it_is_said_once(
    tmp_path, monkeypatch, capsys, kind
):
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "file").touch()
    folder = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "x"}.get(kind)
    if folder is None:
        monkeypatch.delenv("LANDMARK_CACHE", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
    else:
        monkeypatch.setenv("LANDMARK_CACHE", str(folder))
    for _ in range(2):
        sizes, errors = photo_sizes(tmp_path, pd.Series(["a.jpg"]))
        assert (sizes.tolist(), errors) == ([[40, 30]], {})
    error = capsys.readouterr().err
    assert error.count("photo sizes are not cached in") == 1
    assert "Set LANDMARK_CACHE" in error


@pytest.mark.parametrize(("free", "expected"), [(0, 0), (30, 1), (99, 3), (10**6, 4)])
def test_workers_fit_in_shared_memory(monkeypatch, capsys, free, expected):
    status = SimpleNamespace(f_bavail=free, f_frsize=1)
    monkeypatch.setattr(batches.sys, "platform", "linux")
    monkeypatch.setattr(batches.os, "statvfs", lambda _: status)
    assert [batches.affordable_workers(4, batch_bytes=10) for _ in range(2)] == [expected] * 2
    assert capsys.readouterr().err.count("workers: ") == (expected < 4)

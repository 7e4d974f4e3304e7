"""`landmark store` shows, joins, concatenates and whitens stores; an error is one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_command import without_heavy_imports

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.whitening import Whitening
from landmark.cli.store import store as run
from landmark.error import UserError

ROOT = Path(__file__).resolve().parents[1]


def write(path, ids, dim=4, seed=0, **meta):
    vectors = np.random.default_rng(seed).standard_normal((len(ids), dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    DescriptorStore.write(path, ids, vectors, **{"embedder": "e", "table": f"t{seed}", **meta})
    return DescriptorStore.open(path)


def test_info_shows_what_a_store_contains_and_how_it_was_made(tmp_path):
    labels = ["x", "y", None, "x"]
    write(tmp_path / "s", list("abcd"), landmark_ids=labels, scales=[1.0, 2.0])
    pd.DataFrame({"id": ["z"], "path": ["z.jpg"]}).to_csv(tmp_path / "s/skipped.csv", index=False)
    assert run(["info", str(tmp_path / "s")]).splitlines() == [
        "photos      4",
        "dimension   4",
        "landmarks   2 of 3 photos",
        "skipped     1 photos that could not be read",
        "schema      1",
        "version     0.1.0",
        "dtype       float32",
        "embedder    e",
        "table       t0",
        "scales      [1.0, 2.0]",
    ]


def test_join(tmp_path):
    one, two = write(tmp_path / "1", ["a", "b"]), write(tmp_path / "2", ["c"], seed=1)
    line = run(["join", *(str(tmp_path / name) for name in "o12")])
    assert line == f"wrote {tmp_path / 'o'}: 3 photos of 2 stores"
    joined = DescriptorStore.open(tmp_path / "o")
    np.testing.assert_array_equal(joined.vectors, np.concatenate([one.vectors, two.vectors]))


def test_ensemble(tmp_path):
    for seed in range(6):
        write(tmp_path / f"{seed}", ["a", "b"], dim=512, seed=seed)
    stores = [str(tmp_path / f"{seed}") for seed in range(6)]
    weights = ["0.5", "1", "1", "0.5", "1", "1"]
    line = run(["ensemble", str(tmp_path / "o"), *stores, "--weights", *weights])
    assert line == f"wrote {tmp_path / 'o'}: 3,072-d of 6 stores"
    members = DescriptorStore.open(tmp_path / "o").meta["members"]
    assert [member["weight"] for member in members] == [0.5, 1, 1, 0.5, 1, 1]


def test_apply(tmp_path):
    write(tmp_path / "s", ["a", "b"])
    Whitening(np.full(4, 0.1), np.eye(4)[:, :3], {"embedder": "e"}).write(tmp_path / "w")
    line = run(["apply", *(str(tmp_path / name) for name in "wso")])
    assert line == f"wrote {tmp_path / 'o'}: 2 photos, 4 → 3-d"
    assert DescriptorStore.open(tmp_path / "o").dim == 3


@pytest.mark.parametrize("arguments", [["join", "o", "s", "t"], ["ensemble", "o", "s", "s"]])
def test_an_existing_output_is_replaced_only_with_overwrite(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("sto"):
        write(Path(name), [name], seed=seed)
    with pytest.raises(UserError, match=r"o already exists\. Pass --overwrite to replace it\."):
        run(arguments)
    assert DescriptorStore.open("o").ids.tolist() == ["o"]
    run([*arguments, "--overwrite"])
    assert DescriptorStore.open("o").ids[0] == "s"
    Path("photos").mkdir()
    Path("photos", "a.jpg").touch()
    with pytest.raises(UserError, match=r"no meta\.json, so --overwrite does not replace it"):
        run([arguments[0], "photos", *arguments[2:], "--overwrite"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["info", "nowhere"], "nowhere is not a descriptor store: vectors.npy is missing."),
        (["join", "o", "nowhere", "s"], "nowhere is not a descriptor store"),
        (["apply", "s", "s", "s"], "s already exists. Pass --overwrite to replace it."),
        (["apply", "s", "s", "o"], "s is not a whitening: mean.npy is missing."),
        (["ensemble", "o", "s", "--weight", "1", "x"], "--weights: invalid float value: 'x'."),
        (["join", "o"], "the following arguments are required: STORE. See landmark store join -"),
        (["merge"], "invalid choice: 'merge'"),
        ([], "the following arguments are required"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_error_is_one_line_and_status_2(tmp_path, arguments, words):
    write(tmp_path / "s", ["a"])
    result = subprocess.run(
        [sys.executable, "-m", "landmark", "store", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert words in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("tool", [[], ["join"]])
def test_help_is_shown_without_heavy_imports(tmp_path, tool):
    result = without_heavy_imports("store", *tool, "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "landmark store" in result.stdout
    assert "--overwrite" in result.stdout

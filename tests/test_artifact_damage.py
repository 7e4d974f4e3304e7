"""Stores and rankings with a missing or damaged part, or of a later version, are refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.disk.atomic import atomic_folder
from landmark.error import UserError

UNIT = np.eye(2, dtype=np.float32)
RANKINGS = Rankings(
    np.array([[2, 0, -1], [1, 2, 0]], np.int32),
    np.array([[0.9, 0.5, 0], [0.8, 0.7, 0.6]], np.float32),
    np.array(["q1", "q2"]),
    np.array(["g1", "g2", "g3"]),
)


def write_rankings(path):
    with atomic_folder(path, marker="meta.json") as folder:
        RANKINGS.write_into(folder)


KINDS = {
    "store": (
        DescriptorStore.open,
        lambda path: DescriptorStore.write(path, ["a", "b"], UNIT),
        ("vectors.npy", "ids.parquet", "meta.json"),
    ),
    "rankings": (
        Rankings.open,
        write_rankings,
        (
            *("rows.npy", "scores.npy", "query_ids.parquet", "gallery_ids.parquet"),
            *("meta.json", "metrics.json"),
        ),
    ),
}
FILES = [(kind, name) for kind, (_, _, names) in KINDS.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_folder_with_a_missing_or_damaged_file_is_refused(tmp_path, kind, name):
    open_folder, write, _ = KINDS[kind]
    whole = tmp_path / "whole"
    write(whole)
    content = (whole / name).read_bytes()
    spoilt = [b"", b"nonsense", content[: len(content) // 2], content[:-1]]
    if name.endswith("json"):
        spoilt[-1] = b"[1]"
    for count, damage in enumerate([None, *spoilt]):
        path = tmp_path / str(count)
        shutil.copytree(whole, path)
        if damage is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes(damage)
        with pytest.raises(UserError) as caught:
            open_folder(path)
        assert str(caught.value).startswith(str(path))
        assert (name in str(caught.value)) or damage is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_a_later_version_is_refused(tmp_path, kind):
    open_folder, write, _ = KINDS[kind]
    write(tmp_path / "x")
    meta = tmp_path / "x" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "schema": 3, "version": "9.0"}))
    with pytest.raises(UserError, match=r"x was written by a later version \(9\.0\)"):
        open_folder(tmp_path / "x")


def test_inconsistent_parts_of_a_store_are_refused(tmp_path):
    path = tmp_path / "s"
    DescriptorStore.write(path, ["a", "b"], UNIT)
    pd.DataFrame({"id": ["a"]}).to_parquet(path / "ids.parquet")
    with pytest.raises(UserError, match=r"s has 1 ids in ids\.parquet for 2 rows in vectors\.npy"):
        DescriptorStore.open(path)
    pd.DataFrame({"name": ["a", "b"]}).to_parquet(path / "ids.parquet")
    with pytest.raises(UserError, match=r"ids\.parquet has no column id"):
        DescriptorStore.open(path)
    np.save(path / "vectors.npy", np.eye(2))
    with pytest.raises(UserError, match=r"vectors\.npy has dtype float64 and shape \(2, 2\)"):
        DescriptorStore.open(path)
    with pytest.raises(UserError, match=r"gone is not a descriptor store: vectors\.npy is missing"):
        DescriptorStore.open(tmp_path / "gone")
    with pytest.raises(UserError, match=r"gone is not a folder of rankings: rows\.npy is missing"):
        Rankings.open(tmp_path / "gone")


def test_rankings_changed_on_disk_are_refused(tmp_path):
    write_rankings(tmp_path / "r")
    np.save(tmp_path / "r" / "rows.npy", np.full((2, 3), 7, np.int32))
    with pytest.raises(UserError, match=r"r is damaged \(a row is outside the gallery of 3\)"):
        Rankings.open(tmp_path / "r")

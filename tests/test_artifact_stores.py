"""Descriptor stores and rankings are read as they were written, or refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.rankings import Rankings
from landmark.error import UserError


def unit_rows(count: int, dim: int = 4, dtype: str = "float32") -> np.ndarray:
    rows = np.random.default_rng(count).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


IDS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5),
    unique=True,
    max_size=6,
)


@settings(max_examples=15, deadline=None)
@given(ids=IDS, dtype=st.sampled_from(["float16", "float32", "float64"]), labelled=st.booleans())
def test_a_store_is_read_as_it_was_written(tmp_path_factory, ids, dtype, labelled):
    path = tmp_path_factory.mktemp("store") / "store"
    vectors = unit_rows(len(ids), dtype=dtype)
    landmarks = ids[::-1] if labelled else None
    DescriptorStore.write(path, ids, vectors, landmarks, scales=[0.75, 1], table="abc")
    store = DescriptorStore.open(path)
    stored = "float32" if dtype == "float64" else dtype
    assert store.ids.tolist() == ids
    assert (store.landmark_ids is None) == (not labelled)
    assert not labelled or store.landmark_ids.tolist() == landmarks
    assert store.vectors.dtype == stored
    assert isinstance(store.vectors, np.memmap)
    assert (len(store), store.dim) == vectors.shape
    np.testing.assert_array_equal(store.vectors, vectors.astype(stored))
    assert store.meta["scales"] == [0.75, 1]
    assert (store.meta["table"], store.meta["dtype"], store.meta["schema"]) == ("abc", stored, 1)
    store.check()
    assert sorted(one.name for one in path.iterdir()) == ["ids.parquet", "meta.json", "vectors.npy"]


def test_unknown_landmarks_are_empty(tmp_path):
    DescriptorStore.write(tmp_path / "s", ["a", "b", "c"], unit_rows(3), ["long name", None, ""])
    assert DescriptorStore.open(tmp_path / "s").landmark_ids.tolist() == ["long name", "", ""]


def test_a_store_is_written_in_blocks(tmp_path):
    vectors = unit_rows(5)
    with DescriptorStore.writing(tmp_path / "s", list("abcde"), 4, flip=True) as stored:
        stored[:3] = vectors[:3]
        stored[3:] = vectors[3:]
        assert not (tmp_path / "s").exists()
    store = DescriptorStore.open(tmp_path / "s")
    np.testing.assert_array_equal(store.vectors, vectors)
    assert store.meta["flip"] is True


def stop_half_way(stored: np.ndarray, stop: type[BaseException]) -> None:
    stored[:1] = unit_rows(1)
    raise stop


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_an_interrupted_store_leaves_nothing(tmp_path, stop):
    with pytest.raises(stop), DescriptorStore.writing(tmp_path / "s", ["a", "b"], 4) as stored:
        stop_half_way(stored, stop)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_overwrite_keeps_the_old_store(tmp_path):
    DescriptorStore.write(tmp_path / "s", ["a"], unit_rows(1))
    with pytest.raises(UserError, match="overwrite=true"):
        DescriptorStore.write(tmp_path / "s", ["b", "c"], unit_rows(2))
    with pytest.raises(UserError, match="length 0"):
        DescriptorStore.write(tmp_path / "s", ["b"], np.zeros((1, 4)), overwrite=True)
    assert DescriptorStore.open(tmp_path / "s").ids.tolist() == ["a"]
    DescriptorStore.write(tmp_path / "s", ["b", "c"], unit_rows(2), overwrite=True)
    assert DescriptorStore.open(tmp_path / "s").ids.tolist() == ["b", "c"]
    assert [one.name for one in tmp_path.iterdir()] == ["s"]


NAN, LONG = unit_rows(2), unit_rows(2) * np.float32(1.01)
NAN[1, 2] = np.nan


@pytest.mark.parametrize(
    ("ids", "vectors", "landmarks", "words"),
    [
        ("ab", unit_rows(3), None, "2 ids for 3 vectors"),
        ("aa", unit_rows(2), None, "duplicate id 'a'"),
        (["a", None], unit_rows(2), None, "row 2 has no id"),
        (["a", ""], unit_rows(2), None, "row 2 has no id"),
        ("ab", unit_rows(2)[0], None, r"shape \(4,\). Pass \(N, D\)"),
        ("ab", unit_rows(2), ["x"], "1 landmark_ids for 2 ids"),
        ("ab", NAN, None, "vector of 'b' has length nan"),
        ("ab", LONG, None, r"vector of 'a' has length 1\.01"),
        ("ab", (LONG * 1.01).astype("float16"), None, r"vector of 'a' has length 1\.02"),
    ],
)
def test_an_invalid_store_is_not_written(tmp_path, ids, vectors, landmarks, words):
    with pytest.raises(UserError, match=words) as caught:
        DescriptorStore.write(tmp_path / "s", list(ids), vectors, landmarks)
    assert str(caught.value).startswith(f"{tmp_path / 's'}: ")
    assert list(tmp_path.iterdir()) == []


def test_half_precision_has_a_larger_tolerance(tmp_path):
    almost = (unit_rows(2) * 1.005).astype("float16")
    DescriptorStore.write(tmp_path / "s", ["a", "b"], almost)
    with pytest.raises(UserError, match="unit length"):
        DescriptorStore.write(tmp_path / "t", ["a", "b"], almost.astype("float32"))
    with (
        pytest.raises(UserError, match=r"dtype float64 is not valid\. Pass float16 or float32"),
        DescriptorStore.writing(tmp_path / "u", ["a"], 4, "float64"),
    ):
        pytest.fail("the block must not be entered")


@pytest.mark.parametrize("spoilt", [NAN, LONG, np.full((2, 4), np.inf, np.float16)])
def test_a_vector_changed_on_disk_is_refused_on_the_first_access(tmp_path, spoilt):
    DescriptorStore.write(tmp_path / "s", ["a", "b"], unit_rows(2))
    np.save(tmp_path / "s" / "vectors.npy", spoilt)
    store = DescriptorStore.open(tmp_path / "s")
    assert (len(store), store.dim, store.ids.tolist()) == (2, 4, ["a", "b"])
    for access in (store.check, lambda: store.vectors):
        with pytest.raises(UserError, match=r"vector of '[ab]' has length (nan|inf|1.01)"):
            access()


def test_ranking_vectors_that_are_not_finite_is_one_line(tmp_path):
    DescriptorStore.write(tmp_path / "q", ["a", "b"], unit_rows(2))
    DescriptorStore.write(tmp_path / "g", ["c", "d"], unit_rows(2))
    np.save(tmp_path / "g" / "vectors.npy", NAN)
    script = Path(__file__).resolve().parents[1] / "rerank.py"
    result = subprocess.run(
        [sys.executable, str(script), "query=q", "gallery=g", "output=out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: g: the vector of 'd' has length nan. Descriptors must be finite and of unit length."
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "q"]


def rankings() -> Rankings:
    return Rankings(
        np.array([[2, 0, -1], [1, 2, 0]], np.int32),
        np.array([[0.9, 0.5, 0], [0.8, 0.7, 0.6]], np.float32),
        np.array(["q1", "q2"]),
        np.array(["g1", "g2", "g3"]),
        {"steps": [{"step": "search"}]},
        {"map_at_100": 0.5},
    )


def test_rankings_are_read_as_they_were_written(tmp_path):
    written = rankings()
    written.write_into(tmp_path)
    read = Rankings.open(tmp_path)
    for name in ("rows", "scores", "query_ids", "gallery_ids"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert (read.rows.dtype, read.scores.dtype) == (np.int32, np.float32)
    assert read.meta["steps"] == [{"step": "search"}]
    assert read.metrics == {"map_at_100": 0.5}


@pytest.mark.parametrize(
    ("rows", "scores", "queries"),
    [
        ([[0, 1]], [[0.5]], ["q"]),
        ([[0, 1]], [[0.5, 0.4]], ["q", "r"]),
        ([[0, 3]], [[0.5, 0.4]], ["q"]),
        ([[0, -2]], [[0.5, 0.4]], ["q"]),
        ([0], [0.5], ["q"]),
    ],
)
def test_inconsistent_rankings_are_refused(rows, scores, queries):
    with pytest.raises(ValueError, match=r"do not match|outside the gallery"):
        Rankings(np.array(rows), np.array(scores), np.array(queries), np.array(["a", "b", "c"]))


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "u4", "i2"])
def test_rankings_of_whole_numbers_in_another_dtype_are_read(tmp_path, dtype):
    rankings().write_into(tmp_path)
    rows = rankings().rows
    expected = np.maximum(rows, 0) if dtype == "u4" else rows  # pads are negative
    np.save(tmp_path / "rows.npy", expected.astype(dtype))
    np.save(tmp_path / "scores.npy", rankings().scores.astype("f8"))
    found = Rankings.open(tmp_path)
    assert (found.rows.dtype, found.scores.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.scores, rankings().scores)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("rows.npy", lambda rows: rows + 0.5, "which is not a gallery row"),
        ("rows.npy", lambda rows: np.where(rows < 0, np.nan, rows), "contains nan"),
        ("rows.npy", lambda rows: rows.astype("i8") + 2**32, "which is not a gallery row"),
        ("rows.npy", lambda rows: rows.astype("U3"), "not whole numbers"),
        ("rows.npy", lambda rows: rows > 0, "not whole numbers"),
        ("scores.npy", lambda scores: scores.astype("c8"), "not numbers"),
        ("scores.npy", lambda scores: scores * np.nan, "not numbers"),
    ],
)
def test_rankings_that_are_not_numbers_are_one_line(tmp_path, name, change, words):
    rankings().write_into(tmp_path)
    with np.errstate(invalid="ignore"):
        np.save(tmp_path / name, change(np.load(tmp_path / name)))
    with pytest.raises(UserError, match=words) as caught:
        Rankings.open(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)

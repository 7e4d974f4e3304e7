"""Several arrays or stores read as one, as numpy reads their concatenation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.stacked import StackedStores, StackedVectors
from landmark.error import UserError


@st.composite
def stacks(draw):
    """Return a stack and the same rows as one array."""
    dtypes = draw(st.lists(st.sampled_from(["f2", "f4"]), min_size=1, max_size=4))
    sizes = draw(st.lists(st.integers(0, 6), min_size=len(dtypes), max_size=len(dtypes)))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    parts = [random.standard_normal((n, 3)).astype(t) for n, t in zip(sizes, dtypes, strict=True)]
    return StackedVectors(parts), np.concatenate(parts)


@given(stack=stacks(), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_stack_reads_as_one_array(stack, data):
    stacked, whole = stack
    assert (len(stacked), stacked.shape, stacked.dtype, stacked.ndim) == (
        len(whole),
        whole.shape,
        whole.dtype,
        2,
    )
    bounds = st.none() | st.integers(-30, 30)
    step = data.draw(st.sampled_from([None, 1, 2, -1, -3]))
    key = slice(data.draw(bounds), data.draw(bounds), step)
    keys = [key, data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)))]
    keys[1] = np.array(keys[1], bool)
    keys.append([])
    if len(whole):
        row = st.integers(-len(whole), len(whole) - 1)
        keys += [data.draw(row), data.draw(st.lists(row)), np.array([[data.draw(row)] * 2] * 3)]
    for key in keys:
        same = np.array([], int) if isinstance(key, list) and not key else key
        found, expected = stacked[key], whole[same]
        assert type(found) is np.ndarray
        assert found.dtype == whole.dtype
        np.testing.assert_array_equal(found, expected)
    first, last = sorted(data.draw(st.integers(0, len(whole))) for _ in range(2))
    np.testing.assert_array_equal(stacked.between(first, last), whole[first:last])
    assert stacked.between(first, last).dtype == whole.dtype
    np.testing.assert_array_equal(np.asarray(stacked, "f8"), whole.astype("f8"))


def test_a_stack_copies_nothing_and_refuses_invalid_indexes():
    parts = [np.zeros((2, 3), "f2"), np.zeros((4, 3), "f4")]
    stacked = StackedVectors(parts)
    parts[1][3, 0] = 5
    assert stacked[5].tolist() == [5, 0, 0]
    assert all(
        np.shares_memory(a, b) for a, b in zip(stacked.between(1, 5).parts, parts, strict=True)
    )
    for key in (6, [-7], [0.5], (0, 1), np.array([True])):
        with pytest.raises(IndexError):
            stacked[key]
    with pytest.raises(ValueError, match="cannot stack"):
        StackedVectors([np.zeros((2, 3)), np.zeros((2, 4))])
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(stacked, copy=False)


def store(folder, ids, landmarks=None, **meta):
    vectors = np.random.default_rng(len(ids)).standard_normal((len(ids), 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    DescriptorStore.write(folder, ids, vectors.astype("f2"), landmarks, **meta)
    return DescriptorStore.open(folder)


def test_stacked_stores_read_as_a_store(tmp_path):
    set_, distractors = (
        store(tmp_path / "set", ["a", "b"], ["x", ""], embedder="e", table="1"),
        store(tmp_path / "distractors", ["c", "long id", "d"], embedder="e", table="2"),
    )
    both = StackedStores([set_, distractors])
    assert both.ids.tolist() == ["a", "b", "c", "long id", "d"]
    assert both.landmark_ids.tolist() == ["x", "", "", "", ""]
    assert (len(both), both.dim) == (5, 3)
    np.testing.assert_array_equal(both.vectors[[1, 3]], [set_.vectors[1], distractors.vectors[1]])
    assert both.meta["embedder"] == "e"
    assert "table" not in both.meta
    assert [one["rows"] for one in both.meta["stores"]] == [2, 3]
    assert StackedStores([distractors]).landmark_ids is None


def test_an_id_in_two_stores_is_refused(tmp_path):
    one, other = store(tmp_path / "one", ["a", "b"]), store(tmp_path / "other", ["c", "b", "d"])
    with pytest.raises(UserError, match=r"other: photo 'b' is also in .*one"):
        StackedStores([one, other])


def test_stacks_of_stacks_copy_nothing():
    inner = StackedVectors([np.zeros((2, 3)), np.ones((4, 3))])
    outer = StackedVectors([np.full((1, 3), 2.0), inner], np.float32)
    assert [id(part) for part in outer.parts[1:]] == [id(part) for part in inner.parts]
    assert outer[:].dtype == np.float32
    np.testing.assert_array_equal(outer[:], [[2.0] * 3, *([0.0] * 3,) * 2, *([1.0] * 3,) * 4])

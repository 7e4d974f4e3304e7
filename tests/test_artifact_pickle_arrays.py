"""Arrays are read from a pickle unless they could access memory."""

import _codecs
import pickle

import numpy as np
import pytest

from landmark.artifact.restricted_pickle import load_pickle
from landmark.error import UserError

# The functions that numpy names in the pickles that it writes.
RECONSTRUCT = np.zeros(1).__reduce__()[0]
SCALAR = np.float64(1).__reduce__()[0]
INTS = np.dtype("int64")
EMPTY = (RECONSTRUCT, (np.ndarray, (0,), b"b"))


class Calls:
    """Pickle as a call of any function, followed by the state for `__setstate__`."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


VOID_WITH_OBJECTS = Calls(
    np.dtype, ("V8",), (3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 0)
)
HOSTILE = {
    "an object read from bytes": Calls(np.ndarray, ((1,), np.dtype("O"), b"A" * 8)),
    "objects": np.array([1, "a"], object),
    "a record with objects": np.zeros(2, [("a", "i4"), ("b", "O")]),
    "a dtype that hides its objects": Calls(*EMPTY, (1, (1,), VOID_WITH_OBJECTS, False, b"A" * 8)),
    "an object from bytes": Calls(SCALAR, (np.dtype("O"), b"A" * 8)),
    "more items than bytes": Calls(*EMPTY, (1, (10**6,), INTS, False, b"A" * 8)),
    "a negative shape": Calls(*EMPTY, (1, (-5,), INTS, False, b"A" * 8)),
    "no dtype": Calls(*EMPTY, (1, (1,), "int64", False, b"A" * 8)),
    "another encoder": Calls(_codecs.encode, ("text", "zlib")),
}


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("what", HOSTILE)
def test_an_array_that_reaches_into_memory_is_refused(tmp_path, what, protocol):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"gnd": [HOSTILE[what]]}, protocol=protocol))
    with pytest.raises(UserError, match=r"evil\.pkl is not a pickle of plain values"):
        load_pickle(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.array([1.5, -2], ">f8"),
        np.array(["ä", "bcd"]),
        np.array([b"x", b"\xff"]),
        np.array([True, False]),
        np.array(5),
        np.zeros((0, 3)),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_plain_arrays_are_read_and_pickled_again(tmp_path, array, protocol):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(array, protocol=protocol))
    read = load_pickle(tmp_path / "p.pkl")
    np.testing.assert_array_equal(read, array, strict=array.dtype.isnative)
    again = pickle.loads(pickle.dumps(read, protocol=protocol))
    assert type(again) is np.ndarray
    np.testing.assert_array_equal(again, array)

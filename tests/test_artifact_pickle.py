"""Plain values are read from a pickle; anything else is refused and not run."""

import contextlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landmark.artifact.restricted_pickle import load_pickle
from landmark.error import UserError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.sets(st.integers())
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_read_from_a_pickle(tmp_path_factory, value, protocol):
    path = tmp_path_factory.mktemp("pickle") / "p.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert load_pickle(path) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_arrays_are_read_from_a_pickle(tmp_path, protocol):
    value = {"rows": np.arange(6).reshape(2, 3), "one": np.float32(2.5), "names": np.array(["x"])}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    read = load_pickle(tmp_path / "p.pkl")
    assert read["one"] == np.float32(2.5)
    assert read["names"].tolist() == ["x"]
    np.testing.assert_array_equal(read["rows"], value["rows"])


class Calls:
    """Pickle as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_requests_a_program_is_refused_and_not_run(tmp_path, protocol):
    trace, path = tmp_path / "trace", tmp_path / "evil.pkl"
    for function, argument in (
        (os.system, f"touch {trace}"),
        (eval, f"open({str(trace)!r}, 'w')"),
        (open, str(trace)),
        (Path.touch, trace),
    ):
        arguments = (argument, "w") if function is open else (argument,)
        path.write_bytes(pickle.dumps({"gnd": [Calls(function, *arguments)]}, protocol=protocol))
        with pytest.raises(UserError, match=r"evil\.pkl is not a pickle of plain values") as caught:
            load_pickle(path)
        assert "it requests" in str(caught.value)
        assert not trace.exists()
    # Read without restrictions, the last file does run its call.
    pickle.loads(path.read_bytes())
    assert trace.exists()


WHOLE = pickle.dumps({"gnd": [{"easy": [1, 2], "bbx": (0.5, 1.0)}], "imlist": {"a", "b"}})


@settings(max_examples=100, deadline=None)
@given(damage=st.dictionaries(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), max_size=3))
def test_a_damaged_pickle_is_an_error_or_another_value(tmp_path_factory, damage):
    damaged = bytearray(WHOLE)
    for place, value in damage.items():
        damaged[place] = value
    path = tmp_path_factory.mktemp("pickle") / "p.pkl"
    path.write_bytes(damaged)
    # Any other exception fails the test.
    with contextlib.suppress(UserError):
        load_pickle(path)


def test_a_truncated_pickle_is_an_error(tmp_path):
    path = tmp_path / "p.pkl"
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        with pytest.raises(UserError, match=r"p\.pkl is not a pickle of plain values"):
            load_pickle(path)


def test_a_missing_pickle_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pkl does not exist"):
        load_pickle(tmp_path / "gone.pkl")


@pytest.mark.parametrize(
    ("name", "gallery"), [("gnd_roxford5k", 4993), ("gnd_rparis6k", 6322)], ids=["oxford", "paris"]
)
def test_the_published_ground_truths_are_read(shared, name, gallery):
    content = load_pickle(shared / "reference" / "revisitop_gnd" / f"{name}.pkl")
    assert len(content["imlist"]) == gallery
    assert len(content["qimlist"]) == len(content["gnd"]) == 70
    for query in content["gnd"]:
        lists = [set(query[kind]) for kind in ("easy", "hard", "junk")]
        assert all(0 <= row < gallery for one in lists for row in one)
        assert sum(map(len, lists)) == len(set().union(*lists))
        assert len(query["bbx"]) == 4

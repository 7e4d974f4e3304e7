"""Recorded settings are compared with the requested ones; digests are those of SHA-256."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landmark.disk.differences import as_recorded, check_same_settings, differences
from landmark.disk.digest import digest_of, digest_of_blocks, digest_of_files
from landmark.error import UserError

RECORDED = {"scales": [1.0], "image": {"fit": "crop", "sizes": [[64, 32]]}, "count": 3}


@pytest.mark.parametrize(
    ("requested", "ignored", "expected"),
    [
        ({"scales": (1.0,)}, (), {}),
        ({"scales": [1.0, 2.0]}, (), {"scales": ([1.0], [1.0, 2.0])}),
        ({"scales": [2.0]}, ("scales",), {}),
        ({"flip": None}, (), {}),
        ({"flip": False}, (), {"flip": (None, False)}),
        ({}, (), {}),
        ({"image": RECORDED["image"]}, (), {}),
        ({"image": {"fit": "crop"}}, (), {"image.sizes": ([[64, 32]], None)}),
        ({"image": {"fit": "crop"}}, ("image.sizes",), {}),
        ({"image": {"fit": "pad"}}, ("image",), {}),
        ({"image": {"fit": "pad"}}, ("fit", "image.sizes"), {"image.fit": ("crop", "pad")}),
        ({"image": None}, (), {"image": (RECORDED["image"], None)}),
        ({1: "a"}, (), {"1": (None, "a")}),
    ],
)
def test_differences(requested, ignored, expected):
    assert differences(RECORDED, requested, ignored) == expected


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
            max_leaves=4,
        ),
    )
)
def test_recorded_settings_equal_themselves(settings):
    assert differences(as_recorded(settings), settings) == {}


def test_settings_that_json_cannot_represent_are_refused():
    with pytest.raises(TypeError):
        as_recorded({"a": {1, 2}})


def test_a_different_setting_is_named_with_both_values():
    with pytest.raises(UserError) as caught:
        check_same_settings(
            RECORDED, {"scales": [2.0], "image": {"fit": "x" * 99}}, "s exists", "Use another."
        )
    assert str(caught.value) == (
        f's exists with a different scales ([1.0], now [2.0]), image.fit ("crop", now "{"x" * 58}…)'
        ", image.sizes ([[64, 32]], now null). Use another."
    )
    check_same_settings(RECORDED, {"scales": [2.0]}, "s", "x", ignored=("scales",))


def test_digests_equal_sha256(tmp_path):
    assert digest_of(b"abc") == hashlib.sha256(b"abc").hexdigest()[:16]
    assert digest_of({"b": 1, "a": [2]}) == digest_of({"a": [2], "b": 1})
    assert digest_of({"a": [2]}) == hashlib.sha256(b'{"a": [2]}').hexdigest()[:16]
    long = b"abc" * 500_000  # more than a block
    (tmp_path / "f").write_bytes(long)
    (tmp_path / "g").write_bytes(b"d")
    assert digest_of_files(tmp_path / "f") == hashlib.sha256(long).hexdigest()[:16]
    assert digest_of_files(tmp_path / "f", tmp_path / "g") == digest_of(long + b"d")
    assert digest_of_blocks([b"a", memoryview(b"bc")]) == digest_of(b"abc")

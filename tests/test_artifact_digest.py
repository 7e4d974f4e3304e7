"""A digest changes with what it was made from, and with nothing else."""

import hashlib

import pandas as pd

from landmark.data.image_table import digest_of_table
from landmark.disk.digest import digest_of, digest_of_files


def test_digests_are_those_of_sha256(tmp_path):
    assert digest_of(b"abc") == hashlib.sha256(b"abc").hexdigest()[:16]
    assert digest_of({"b": 1, "a": [2]}) == digest_of({"a": [2], "b": 1})
    assert digest_of({"a": [2]}) == hashlib.sha256(b'{"a": [2]}').hexdigest()[:16]
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert digest_of_files(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()[:16]


def test_the_digest_of_a_table_sees_every_value_name_and_order():
    frame = pd.DataFrame({"id": ["a", "b"], "width": [3.0, None], "split": ["train", None]})
    others = [
        frame.iloc[::-1],
        frame.rename(columns={"width": "height"}),
        frame[["width", "id", "split"]],
        frame.fillna({"width": 4.0}),
        frame.fillna({"split": ""}),
        frame.assign(id=["a", "c"]),
        frame.iloc[:1],
    ]
    digests = [digest_of_table(one) for one in (frame, *others)]
    assert len(set(digests)) == len(digests)
    assert digest_of_table(frame.copy()) == digests[0]
    assert all(len(one) == 16 for one in digests)

"""Short fingerprints of what a result was made from."""

import hashlib
import json
from pathlib import Path

import pandas as pd

_LENGTH = 16


def digest_of(value: object) -> str:
    """First 16 hex digits of the SHA-256 of bytes, or of a value's sorted JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:_LENGTH]


def digest_of_file(path: str | Path) -> str:
    """First 16 hex digits of the SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_LENGTH]


def digest_of_table(frame: pd.DataFrame) -> str:
    """First 16 hex digits of a SHA-256 over column names and all values, in their order."""
    digest = hashlib.sha256(json.dumps([str(name) for name in frame.columns]).encode())
    for name in frame.columns:
        hashes = pd.util.hash_array(frame[name].to_numpy(dtype=object, na_value=None))
        digest.update(hashes.tobytes())
    return digest.hexdigest()[:_LENGTH]

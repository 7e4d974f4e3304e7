"""Short digests of the inputs of a result: the first 16 hex digits of a SHA-256."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

_HEX_DIGITS = 16
_BLOCK_BYTES = 1 << 20


def digest_of_blocks(blocks: Iterable[bytes | memoryview]) -> str:
    """Return the digest of the concatenated blocks.

    Example:
        >>> digest_of_blocks([b"land", b"mark"]) == digest_of_blocks([b"landmark"])
        True
    """
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()[:_HEX_DIGITS]


def digest_of(value: object) -> str:
    """Return the digest of bytes, or of a value's JSON with sorted keys."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return digest_of_blocks([data])


def digest_of_files(*paths: str | Path) -> str:
    """Return the digest of the bytes of one or several files, in this order."""
    return digest_of_blocks(block for path in paths for block in _blocks(path))


def _blocks(path: str | Path) -> Iterable[bytes]:
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block

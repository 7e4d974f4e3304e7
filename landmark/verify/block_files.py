"""Finished blocks of results on disk, from which a stopped verification resumes."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmark.disk.space import disk_errors

_SUFFIX = ".blocks"
_HEADER = np.dtype([("block", "<i8"), ("count", "<i8"), ("checksum", "<i8")])
_RESULT = np.dtype([("score", "<f4"), ("inliers", "<i4")])


class Block(NamedTuple):
    """Results of one block of pairs.

    Attributes:
        number: Position of the block.
        scores: (n,) float32.
        inliers: (n,) int32.
    """

    number: int
    scores: NDArray[np.float32]
    inliers: NDArray[np.int32]


class BlockWriter:
    """Append blocks to a file of its own, so that any number of processes write side by side.

    A killed writer leaves at most one incomplete block at the end, which `read_blocks` leaves out.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}{_SUFFIX}"
        with disk_errors(folder):
            _drop_incomplete_end(self._path)
            self._file = self._path.open("ab")

    def __enter__(self) -> "BlockWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, block: Block) -> None:
        """Append a block and hand it to the system: it survives a kill of this process.

        Raises:
            UserError: The disk is full.
        """
        results = np.empty(len(block.scores), _RESULT)
        results["score"], results["inliers"] = block.scores, block.inliers
        data = results.tobytes()
        header = np.array([(block.number, len(results), _checksum(block.number, data))], _HEADER)
        with disk_errors(self._path):
            self._file.write(header.tobytes() + data)
            self._file.flush()


def read_blocks(folder: Path) -> Iterator[Block]:
    """Yield the complete blocks of all writers, in any order."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        with path.open("rb") as file:
            yield from _blocks(file)


def _blocks(file: BinaryIO) -> Iterator[Block]:
    """Yield the blocks up to the first that is incomplete; leave the file at its start."""
    size = file.seek(0, 2)
    end = file.seek(0)
    while end + _HEADER.itemsize <= size:
        number, count, checksum = np.frombuffer(file.read(_HEADER.itemsize), _HEADER)[0].tolist()
        following = end + _HEADER.itemsize + count * _RESULT.itemsize
        if count < 0 or following > size:
            break
        data = file.read(count * _RESULT.itemsize)
        if checksum != _checksum(number, data):
            break
        results = np.frombuffer(data, _RESULT)
        yield Block(number, results["score"], results["inliers"])
        end = following
    file.seek(end)


def _drop_incomplete_end(path: Path) -> None:
    """Cut off what follows the last complete block, which would hide blocks appended later."""
    if path.exists():
        with path.open("r+b") as file:
            for _ in _blocks(file):
                pass
            file.truncate()


def _checksum(number: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(number.to_bytes(8, "little", signed=True)))

"""Distinct pairs of photos, verified in blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark.disk.differences import as_recorded
from landmark.disk.digest import digest_of_blocks
from landmark.error import UserError
from landmark.verify.block_files import Block
from landmark.verify.features import Features
from landmark.verify.verifier import Verification

Verify = Callable[[Features, Features], Verification]

_DIGEST_ROWS = 1 << 20
_NO_INFLUENCE = {"false_rate"}  # settings of a verifier that change no score


class PairBlocks:
    """Distinct pairs in blocks, and their results.

    Attributes:
        keys: (U,) int64, ascending: row in `a` times the number of photos of `b`, plus row in `b`.
        scores: (U,) float32.
        inliers: (U,) int32.
        done: (blocks,) bool, whether this process has the results of a block.
    """

    def __init__(
        self,
        verifier: Verify,
        a: Sequence[Features],
        b: Sequence[Features],
        keys: NDArray[np.int64],
        block: int,
    ) -> None:
        self.verifier, self.a, self.b, self.keys, self.block = verifier, a, b, keys, block
        self.scores = np.zeros(len(keys), np.float32)
        self.inliers = np.zeros(len(keys), np.int32)
        self.done = np.zeros(-(-len(keys) // block), bool)

    def slice(self, number: int) -> slice:
        """Return the positions of the pairs of a block."""
        return slice(number * self.block, min((number + 1) * self.block, len(self.keys)))

    def size(self, number: int) -> int:
        """Return the number of pairs of a block."""
        part = self.slice(number)
        return part.stop - part.start

    def verify(self, number: int) -> Block:
        """Verify the pairs of a block. Successive pairs of one photo of `a` read it once."""
        keys = self.keys[self.slice(number)]
        rows_a, rows_b = np.divmod(keys, len(self.b))
        scores = np.zeros(len(keys), np.float32)
        inliers = np.zeros(len(keys), np.int32)
        row, photo = -1, None
        for i, (row_a, row_b) in enumerate(zip(rows_a.tolist(), rows_b.tolist(), strict=True)):
            if photo is None or row_a != row:
                row, photo = row_a, self.a[row_a]
            result = self.verifier(photo, self.b[row_b])
            scores[i], inliers[i] = result.score, result.inliers
        return Block(number, scores, inliers)

    def put(self, block: Block) -> None:
        """Store the results of a block."""
        part = self.slice(block.number)
        self.scores[part], self.inliers[part] = block.scores, block.inliers
        self.done[block.number] = True

    def settings(self) -> dict[str, Any]:
        """Return what the results depend on, as JSON restores it."""
        digest = digest_of_blocks(
            self.keys[start : start + _DIGEST_ROWS].tobytes()
            for start in range(0, len(self.keys), _DIGEST_ROWS)
        )
        return as_recorded(
            {
                "verifier": _verifier_settings(self.verifier),
                "a": _features_settings(self.a),
                "b": _features_settings(self.b),
                "pairs": {"distinct": len(self.keys), "digest": digest},
                "block": self.block,
            }
        )


def distinct_pairs(
    pairs: NDArray[np.integer], count_a: int, count_b: int, symmetric: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct pairs as keys, ascending, and the position of each pair among them.

    Args:
        pairs: (P, 2) rows of `a` and `b`.
        count_a: Number of photos of `a`.
        count_b: Number of photos of `b`.
        symmetric: (i, j) and (j, i) are equal; the lower row comes first.

    Raises:
        UserError: The table has no two columns of whole numbers, or a row does not exist.
    """
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise UserError(
            f"pairs have the dtype {pairs.dtype} and the shape {pairs.shape}. Pass (P, 2) rows of "
            "photos, whole numbers."
        )
    columns = pairs[:, 0], pairs[:, 1]
    for rows, count, name in zip(columns, (count_a, count_b), ("first", "second"), strict=True):
        for row in (rows.min(), rows.max()):
            if not 0 <= row < count:
                raise UserError(
                    f"a pair has row {row:,} of the {count:,} {name} photos. Pass rows from 0 to "
                    f"{count - 1:,}."
                )
    keys = (np.minimum(*columns) if symmetric else columns[0]).astype(np.int64)
    keys *= count_b
    keys += np.maximum(*columns) if symmetric else columns[1]
    return np.unique(keys, return_inverse=True)


def _verifier_settings(verifier: Verify) -> dict[str, Any]:
    """Return the name of the class or function and the plain values among its attributes."""
    named: Any = verifier if hasattr(verifier, "__qualname__") else type(verifier)
    plain = (str, int, float, bool, type(None))
    return {"name": f"{named.__module__}.{named.__qualname__}"} | {
        key: value
        for key, value in getattr(verifier, "__dict__", {}).items()
        if isinstance(value, plain) and not key.startswith("_") and key not in _NO_INFLUENCE
    }


def _features_settings(features: Sequence[Features]) -> dict[str, Any]:
    """Return the number of photos, and the settings of a store of local features."""
    meta = getattr(features, "meta", None) or getattr(features, "settings", None)
    return {"photos": len(features), "settings": meta}

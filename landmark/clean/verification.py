"""Add the evidence to pairs of photos: cosines, and geometric verification, resumable."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.vectors import row_blocks
from landmark.clean.pairs import Pairs
from landmark.disk.temporary import temporary_array
from landmark.search.blocks import Vectors
from landmark.verify import Features, verify_pairs
from landmark.verify.pair_blocks import Verify

_BLOCK_VALUES = 2**22  # of the descriptors of pairs: 16 MB


def verify_candidates(
    pairs: NDArray[np.int32],
    vectors: tuple[Vectors, Vectors],
    verifier: Verify | None,
    local: tuple[Sequence[Features], Sequence[Features]] | None,
    staging: Path,
    processes: int | None = None,
) -> Pairs:
    """Compute the cosines of pairs, and verify them if there is a verifier.

    Under a launcher the ranks verify together and every rank gets all results.

    Args:
        pairs: (P, 2) rows of the first and of the second store.
        vectors: Descriptors of the two stores, which may be the same.
        verifier: Verifies two photos. None means cosines alone.
        local: Local features of the two stores; None without a verifier.
        staging: Folder of finished blocks, from which a second call resumes.
        processes: Number of processes that verify, see `verify_pairs`.
    """
    a, b = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    cosine = cosines_of(*vectors, a, b)
    if verifier is None or local is None:
        return Pairs(a, b, cosine, np.zeros(len(a), np.int32), np.zeros(len(a), np.float32))
    result = verify_pairs(verifier, *local, pairs, processes=processes, staging=staging)
    return Pairs(a, b, cosine, result.inliers, result.scores)


def cosines_of(
    vectors_a: Vectors, vectors_b: Vectors, a: NDArray[np.int32], b: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Return the cosines of P pairs of rows of two stores, (P,).

    Example:
        >>> vectors = np.array([[1, 0], [0.6, 0.8]], np.float16)
        >>> cosines_of(vectors, vectors, np.array([0]), np.array([1])).round(3).tolist()
        [0.6000000238418579]
    """
    cosines = temporary_array((len(a),), np.float32)
    for part in row_blocks(len(a), _BLOCK_VALUES // vectors_a.shape[1]):
        left = np.asarray(vectors_a[a[part]], np.float32)
        right = np.asarray(vectors_b[b[part]], np.float32)
        cosines[part] = np.einsum("pd,pd->p", left, right)
    return cosines

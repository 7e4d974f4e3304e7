"""Class centres: a unit vector for each landmark, from train photos or from a trained head."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark.artifact.vectors import row_blocks
from landmark.error import UserError

_BLOCK_ROWS = 8192
_BLOCK_VALUES = 2**24


def mean_centres(vectors: np.ndarray, landmarks: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return the mean direction of each landmark's photos.

    Args:
        vectors: (N, D), unit rows; may be memory-mapped. Read once, in blocks.
        landmarks: (N,) codes 0 … L - 1; -1 for photos that do not count.

    Returns:
        (L, D) unit rows.

    Example:
        >>> mean_centres(np.eye(3), np.array([0, 0, -1])).round(3).tolist()
        [[0.7070000171661377, 0.7070000171661377, 0.0]]
    """
    centres = np.zeros((int(landmarks.max(initial=-1)) + 1, vectors.shape[1]), np.float32)
    for block in row_blocks(len(vectors), _BLOCK_ROWS):
        codes = landmarks[block]
        rows = np.flatnonzero(codes >= 0)
        rows = rows[np.argsort(codes[rows], kind="stable")]
        if not len(rows):
            continue
        starts = np.flatnonzero(np.diff(codes[rows], prepend=-1))
        sums = np.add.reduceat(vectors[block][rows].astype(np.float32), starts, axis=0)
        centres[codes[rows[starts]]] += sums
    lengths = np.linalg.norm(centres, axis=1, keepdims=True)
    centres /= np.where(lengths > 0, lengths, 1)
    return centres


def head_centres(run: str | Path, names: NDArray[np.str_], dim: int) -> NDArray[np.float32]:
    """Return the class centres of a finished run's head.

    Args:
        run: `RUN/embedder`, or one of the run's checkpoints.
        names: (L,) landmark id of each code.
        dim: D of the descriptors.

    Returns:
        (L, K, D) unit rows, K sub-centres of each landmark; zeros for landmarks that the head does
        not know.

    Raises:
        UserError: The run has no head, no list of classes, an embedder with an adapter, which its
            centres lack, centres of another dimension than the descriptors, or none of the
            landmarks.
    """
    import pandas as pd

    from landmark.model.adapter import has_adapter
    from landmark.model.weights_file import part_of_checkpoint, read_checkpoint
    from landmark.task.restore_head import find_checkpoint, read_classes

    path = Path(run)
    if has_adapter(path):
        raise UserError(
            f"centres={run}: the embedder has an adapter, and the class centres of its run are "
            "those without. Pass centres=means."
        )
    try:
        checkpoint, classes = find_checkpoint(path), read_classes(path)
    except UserError as error:
        raise UserError(
            f"centres={run} is not an embedder of a finished run: its checkpoint or classes.csv is "
            "missing. Pass RUN/embedder, or centres=means."
        ) from error
    weight = part_of_checkpoint(read_checkpoint(checkpoint), "loss").get("weight")
    if weight is None or weight.ndim != 2 or len(weight) % max(1, len(classes)):
        raise UserError(
            f"centres={run}: the loss of this run has no class centres. Pass centres=means, or a "
            "run with a classification loss."
        )
    if weight.shape[1] != dim:
        raise UserError(
            f"centres={run} has centres of {weight.shape[1]} dimensions, and the descriptors have "
            f"{dim}. Pass the run whose embedder extracted the stores, without a whitening."
        )
    of_class = weight.float().numpy().reshape(len(classes), -1, dim)
    positions = pd.Index(classes).get_indexer(pd.Index(names))
    if (positions < 0).all():
        raise UserError(
            f"centres={run} knows none of the landmarks of train. Pass the run that was trained on "
            "these landmarks, or centres=means."
        )
    centres = of_class[np.maximum(positions, 0)]
    centres /= np.maximum(np.linalg.norm(centres, axis=2, keepdims=True), 1e-12)
    centres[positions < 0] = 0
    return centres


def centre_cosines(
    query: np.ndarray, centres: NDArray[np.float32], landmarks: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return the cosine of each query with the centres of its candidates' landmarks.

    Args:
        query: (Q, D); may be memory-mapped.
        centres: (L, D), or (L, K, D) with K sub-centres, of which the nearest counts.
        landmarks: (Q, C) codes; -1 for none.

    Returns:
        (Q, C); 0 where there is no landmark.

    Example:
        >>> centre_cosines(np.array([[0.6, 0.8]]), np.eye(2), np.array([[1, -1, 0]])).tolist()
        [[0.800000011920929, 0.0, 0.6000000238418579]]
    """
    if centres.ndim == 2:
        centres = centres[:, None]
    cosines = np.zeros(landmarks.shape, np.float32)
    per_query = max(1, landmarks.shape[1]) * centres.shape[1] * centres.shape[2]
    for block in row_blocks(len(query), max(1, _BLOCK_VALUES // per_query)):
        codes = landmarks[block]
        chosen = centres[np.maximum(codes, 0)]  # (q, C, K, D)
        products = np.einsum("qckd,qd->qck", chosen, np.asarray(query[block], np.float32))
        cosines[block] = np.where(codes >= 0, products.max(axis=2), 0)
    return cosines

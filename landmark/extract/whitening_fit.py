"""Learns a whitening from a store, in one pass over its vectors and D × D of memory."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.vectors import row_blocks
from landmark.error import UserError
from landmark.extract.whitening import Whitening


def fit_pca(store: DescriptorStore, dim: int | None = None, power: float = 0.5) -> Whitening:
    """Principal components of the covariance, each divided by its eigenvalue to `power`.

    Args:
        store: N descriptors (D,), N > 1.
        dim: components to keep, those of the largest eigenvalues; none: all D.
        power: exponent of the eigenvalues. 0.5 gives each component the variance 1 (whitening);
            0 only turns and cuts (PCA); between them the strong components keep some of their
            weight.

    Raises:
        UserError: `dim` is more than the descriptors span, or out of range.

    Source:
        Jégou and Chum, Negative evidences and co-occurences in image retrieval: the benefit of
        PCA and whitening, ECCV 2012, section 3.
    """
    kept = _checked_dim(dim, store)
    if not 0 <= power <= 1:
        raise UserError(f"--power {power}: choose 0 (only turns) to 1; 0.5 whitens")
    mean, covariance = _mean_and_covariance(store)
    values, vectors = np.linalg.eigh(covariance)
    _refuse_noise(values, store, kept, f"{len(store):,} descriptors")
    values, vectors = values[::-1][:kept], _turned(vectors[:, ::-1][:, :kept])
    return _whitening(store, mean, vectors * values**-power, method="pca", power=float(power))


def fit_learned(store: DescriptorStore, dim: int | None = None) -> Whitening:
    """Whitens the differences within landmarks, then turns to the axes that part photos most.

    With C_S the covariance of the differences x_i − x_j of all pairs that show one landmark, and
    C_D that of all other pairs, the projection is C_S^(−1/2) · eig(C_S^(−1/2) C_D C_S^(−1/2)),
    cut to the `dim` largest eigenvalues; the mean is that of the photos of known landmark.

    Args:
        store: descriptors (D,) with landmarks.
        dim: axes to keep; none: all D.

    Raises:
        UserError: no landmarks, or too few pairs to span D dimensions.

    Source:
        Radenović, Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human Annotation,
        TPAMI 2019, "Whitening and dimensionality reduction", after Mikolajczyk and Matas,
        Improving Descriptors for Fast Tree Matching by Optimal Linear Projection, ICCV 2007.
    """
    kept = _checked_dim(dim, store)
    mean, covariance, within = _covariances_by_landmark(store)
    pairs = "the pairs of photos that show one landmark"
    _refuse_noise(np.linalg.eigvalsh(within), store, store.dim, pairs)
    # Any square root of C_S gives the same projection; with L of C_S = L Lᵀ it is cheap.
    root = np.linalg.inv(np.linalg.cholesky(within))
    # All pairs are those within landmarks, whose part is here the identity, and the others: the
    # covariance of all photos therefore has the axes of C_D, and in their order.
    _, vectors = np.linalg.eigh(root @ covariance @ root.T)
    projection = _turned(root.T @ vectors[:, ::-1][:, :kept])
    return _whitening(store, mean, projection, method="learned")


def _whitening(
    store: DescriptorStore,
    mean: NDArray[np.float64],
    projection: NDArray[np.float64],
    **how: str | float,
) -> Whitening:
    source = {key: store.meta.get(key) for key in ("embedder", "whitening", "table")}
    return Whitening(
        mean, projection, {**how, "dim": projection.shape[1], "photos": len(store), **source}
    )


def _mean_and_covariance(
    store: DescriptorStore,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (D,) and covariance (D, D) of all descriptors."""
    vectors, count = store.vectors, len(store)
    shift = _shift(vectors)
    total, squares = np.zeros(store.dim), np.zeros((store.dim, store.dim))
    for block in row_blocks(count):
        part = vectors[block].astype(np.float64) - shift
        total += part.sum(axis=0)
        squares += part.T @ part
    centre = total / count
    return shift + centre, squares / count - np.outer(centre, centre)


def _covariances_by_landmark(
    store: DescriptorStore,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean (D,), covariance of the photos (D, D), and of the differences within landmarks.

    Over the pairs of a landmark of n photos with sum s, Σ (x_i − x_j)(x_i − x_j)ᵀ is
    n Σ x xᵀ − s sᵀ: one pass in the order of the landmarks does, with no sum kept a landmark.
    """
    landmarks, order = _landmarks_in_order(store)
    sizes = np.bincount(landmarks[order])
    shift, dim = _shift(store.vectors), store.dim
    total, squares, within = np.zeros(dim), np.zeros((dim, dim)), np.zeros((dim, dim))
    open_landmark, open_sum = -1, np.zeros(dim)  # may go on in the next block
    for block in row_blocks(len(order)):
        own = landmarks[order[block]]
        part = store.vectors[order[block]].astype(np.float64) - shift
        total += part.sum(axis=0)
        squares += part.T @ part
        within += (part * sizes[own, None]).T @ part
        sums = np.add.reduceat(part, np.flatnonzero(np.diff(own, prepend=-1)), axis=0)
        if own[0] == open_landmark:
            sums[0] += open_sum
        else:
            within -= np.outer(open_sum, open_sum)
        within -= sums[:-1].T @ sums[:-1]
        open_landmark, open_sum = own[-1], sums[-1]
    within -= np.outer(open_sum, open_sum)
    centre = total / len(order)
    pairs = max(1.0, float((sizes * (sizes - 1.0)).sum() / 2))
    return shift + centre, squares / len(order) - np.outer(centre, centre), within / pairs


def _landmarks_in_order(store: DescriptorStore) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number for each photo's landmark, -1 where unknown, and the known rows by landmark.

    Raises:
        UserError: the store knows of no landmark.
    """
    known = store.landmark_ids
    if known is None or not (known != "").any():
        raise UserError(f"{store.path}: has no landmark_id, nothing to learn from; use pca")
    landmarks = pd.factorize(pd.Series(known).replace("", None))[0]
    order = np.argsort(landmarks, kind="stable")
    return landmarks, order[int((landmarks < 0).sum()) :]


def _shift(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """A point near the mean: sums of squares about it lose no digits."""
    first = next(row_blocks(len(vectors)))
    return vectors[first].astype(np.float64).mean(axis=0)


def _checked_dim(dim: int | None, store: DescriptorStore) -> int:
    if len(store) < 2:
        raise UserError(f"{store.path}: {len(store)} descriptors are too few to fit a whitening")
    if dim is None:
        return store.dim
    if not 1 <= dim <= store.dim:
        raise UserError(f"--dim {dim}: choose 1 to {store.dim}, the dimensions of {store.path}")
    return dim


def _refuse_noise(
    values: NDArray[np.floating], store: DescriptorStore, wanted: int, of_what: str
) -> None:
    """Refuses axes along which nothing lies but rounding: to whiten them would blow it up."""
    rounding = float(np.finfo(store.dtype).eps) ** 2
    spanned = int((values > values.max() * max(rounding, len(values) * 2.3e-16)).sum())
    if spanned < wanted:
        raise UserError(
            f"{store.path}: {of_what} span {spanned} of the {wanted} dimensions wanted; take more "
            "photos, or a smaller --dim with --method pca"
        )


def _turned(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns whose entry of largest size is positive: a sign that does not depend on LAPACK."""
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)

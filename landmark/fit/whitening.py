"""Fit a whitening to a descriptor store, in one pass over its vectors and O(D²) memory."""

from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from landmark.artifact.descriptors import DescriptorStore
from landmark.artifact.vectors import row_blocks
from landmark.artifact.whitening import Whitening
from landmark.error import UserError
from landmark.settings import checked


@checked
def fit_pca(
    store: DescriptorStore,
    dim: PositiveInt | None = None,
    power: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> Whitening:
    """Fit PCA whitening: principal components, each divided by its eigenvalue to `power`.

    Args:
        store: N descriptors (D,), N > 1.
        dim: Number of components to keep, by descending eigenvalue. Defaults to D.
        power: Exponent of the eigenvalues. 0.5 gives each component variance 1 (whitening); 0 only
            rotates and truncates (PCA); values between whiten partially. Whitening enlarges noise
            where photos are few, or the network was trained on them.

    Raises:
        UserError: `dim` exceeds the number of dimensions that the descriptors span.

    Source:
        Jégou and Chum, Negative evidences and co-occurences in image retrieval: the benefit of
        PCA and whitening, ECCV 2012, section 3.

    Example:
        >>> import tempfile
        >>> angles = np.linspace(0, np.pi, 50)
        >>> vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        >>> path = tempfile.mkdtemp() + "/store"
        >>> DescriptorStore.write(path, [str(row) for row in range(50)], vectors)
        >>> whitening = fit_pca(DescriptorStore.open(path))
        >>> projected = (vectors - whitening.mean) @ whitening.projection
        >>> projected.var(axis=0).round(4).tolist()
        [1.0, 1.0]
    """
    dim = _validated_dim(dim, store)
    mean, covariance = mean_and_covariance(store)
    values, vectors = np.linalg.eigh(covariance)
    _check_span(values, store, dim, f"{len(store):,} descriptors")
    values, vectors = values[::-1][:dim], _with_fixed_signs(vectors[:, ::-1][:, :dim])
    return _whitening(store, mean, vectors * values**-power, method="pca", power=float(power))


@checked
def fit_learned(store: DescriptorStore, dim: PositiveInt | None = None) -> Whitening:
    """Whiten the differences within landmarks, then rotate to the most discriminative axes.

    Let C_S be the covariance of the differences x_i − x_j of all pairs of photos of the same
    landmark, and C_D that of all other pairs. The projection is C_S^(−1/2) ·
    eig(C_S^(−1/2) C_D C_S^(−1/2)), truncated to the `dim` largest eigenvalues. The mean is that of
    all photos with a known landmark.

    Args:
        store: Descriptors (D,) with landmarks.
        dim: Number of axes to keep. Defaults to D.

    Raises:
        UserError: The store has no landmarks or only one, no two photos of a landmark, or too few
            different pairs to span D dimensions.

    Source:
        Radenović, Tolias and Chum, Fine-tuning CNN Image Retrieval with No Human Annotation,
        TPAMI 2019, "Whitening and dimensionality reduction", after Mikolajczyk and Matas,
        Improving Descriptors for Fast Tree Matching by Optimal Linear Projection, ICCV 2007.
    """
    dim = _validated_dim(dim, store)
    mean, covariance, within = _covariances_by_landmark(store)
    pairs = "the pairs of photos of the same landmark"
    _check_span(np.linalg.eigvalsh(within), store, store.dim, pairs)
    # Any square root of C_S gives the same projection; the Cholesky factor is cheap.
    root = np.linalg.inv(np.linalg.cholesky(within))
    # After whitening, the pairs within landmarks contribute a multiple of the identity to the
    # covariance of all photos, so its eigenvectors are those of C_D, in the same order.
    _, vectors = np.linalg.eigh(root @ covariance @ root.T)
    projection = _with_fixed_signs(root.T @ vectors[:, ::-1][:, :dim])
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


def mean_and_covariance(
    store: DescriptorStore,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean (D,) and the covariance (D, D) of all descriptors."""
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
    """Return the mean (D,), the covariance (D, D) and the covariance within landmarks (D, D).

    Over the pairs of a landmark with n photos of sum s, Σ (x_i − x_j)(x_i − x_j)ᵀ is n Σ x xᵀ −
    s sᵀ, so one pass in landmark order suffices, without storing a sum per landmark.
    """
    landmarks, order = _landmarks_in_order(store)
    sizes = np.bincount(landmarks[order])
    shift, dim = _shift(store.vectors), store.dim
    total, squares, within = np.zeros(dim), np.zeros((dim, dim)), np.zeros((dim, dim))
    open_landmark, open_sum = -1, np.zeros(dim)  # may continue in the next block
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
    """Number the landmarks of all photos, -1 if unknown, and sort the known rows by landmark."""
    landmark_ids = store.landmark_ids
    if landmark_ids is None or not (landmark_ids != "").any():
        raise UserError(f"{store.path} has no landmark_id to learn from. Pass fit=pca.")
    landmarks, names = pd.factorize(pd.Series(landmark_ids).replace("", None))
    if np.bincount(landmarks[landmarks >= 0]).max() < 2:
        raise UserError(
            f"{store.path}: no two photos show the same landmark, so that there is no pair to "
            "learn from. Fit on more photos, or pass fit=pca."
        )
    if len(names) < 2:
        raise UserError(
            f"{store.path}: all photos show the landmark {names[0]!r}, so that there is no other "
            "to tell apart. Fit on more landmarks, or pass fit=pca."
        )
    order = np.argsort(landmarks, kind="stable")
    return landmarks, order[int((landmarks < 0).sum()) :]


def _shift(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a point near the mean, about which sums of squares are numerically stable."""
    return vectors[next(row_blocks(len(vectors)))].astype(np.float64).mean(axis=0)


def _validated_dim(dim: int | None, store: DescriptorStore) -> int:
    if len(store) < 2:
        raise UserError(
            f"{store.path}: {len(store)} descriptors are too few to fit a whitening. Pass a larger "
            "store."
        )
    if dim is None:
        return store.dim
    if dim > store.dim:
        raise UserError(f"fit.dim={dim} is not valid. {store.path} has {store.dim} dimensions.")
    return dim


def _check_span(
    values: NDArray[np.floating], store: DescriptorStore, dim: int, subject: str
) -> None:
    """Check that the eigenvalues exceed rounding errors, which whitening would amplify."""
    rounding, dim_of_store = float(np.finfo(store.vectors.dtype).eps) ** 2, len(values)
    relative = values.max() * max(rounding, dim_of_store * 2.3e-16)
    # Unit vectors have values of about 1 / √D, rounded once when they are stored, and their squares
    # are summed in float64: differences of identical vectors have no larger eigenvalues.
    absolute = max(rounding / dim_of_store, 2 * dim_of_store * 2.3e-16)
    spanned = int((values > max(relative, absolute)).sum())
    if spanned < dim:
        raise UserError(
            f"{store.path}: {subject} span {spanned} of {dim} dimensions. Fit on more photos, or "
            "pass fit=pca with a smaller fit.dim."
        )


def _with_fixed_signs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the largest entry by magnitude of each column positive: LAPACK's signs are arbitrary."""
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)

"""Vectors that make exact search hard, and its answer in float64."""

import numpy as np

KINDS = (
    "unit",
    "near ties",
    "duplicates",
    "clusters",
    "collapsed",
    "denormals",
    "tiny",
    "large",
    "huge",
    "norms",
    "negative",
    "whole numbers",
    "sparse",
)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)


def adversarial(
    kind: str, random: np.random.Generator, queries: int, rows: int, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return queries (Q, D) and a gallery (N, D) in float32."""
    query = unit(random.standard_normal((queries, dim)))
    gallery = unit(random.standard_normal((rows, dim)))
    if kind == "near ties":  # scores within 1e-6 of each other
        gallery = unit(gallery[:1] + 1e-7 * random.standard_normal((rows, dim)))
    elif kind == "duplicates":
        gallery = gallery[random.integers(0, 1 + rows // 10, rows)]
    elif kind == "clusters":
        centres = unit(random.standard_normal((3, dim)))
        gallery = unit(centres[random.integers(0, 3, rows)] + 0.01 * gallery)
        query = unit(centres[random.integers(0, 3, queries)] + 0.01 * query)
    elif kind == "collapsed":  # all cosines are nearly one
        gallery, query = unit(gallery[:1] + 1e-3 * gallery), unit(gallery[:1] + 1e-3 * query)
    elif kind == "denormals":
        gallery = gallery * 10.0 ** random.uniform(-46, -37, (rows, 1))
    elif kind == "tiny":
        gallery, query = gallery * 1e-25, query * 1e-10
    elif kind == "large":  # products beyond the range of float16
        gallery, query = gallery * 2000, query * 2000
    elif kind == "huge":
        gallery, query = gallery * 1e25, query * 1e13
    elif kind == "norms":
        gallery = gallery * 10.0 ** random.uniform(-8, 8, (rows, 1))
    elif kind == "negative":
        query = -np.abs(query)
        gallery = np.abs(gallery)
    elif kind == "whole numbers":
        gallery = random.integers(-3, 4, (rows, dim)).astype(float)
        query = random.integers(-3, 4, (queries, dim)).astype(float)
    elif kind == "sparse":
        gallery = gallery * (random.random((rows, dim)) < 0.1)
    return query.astype(np.float32), gallery.astype(np.float32)


def oracle(query: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best rows and their float64 scores by a full sort, ties by row."""
    wide = gallery.astype(np.float64)
    # einsum, so that the products of equal rows are equal.
    products = np.stack([np.einsum("nd,d->n", wide, q.astype(np.float64)) for q in query])
    rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(products, rows, axis=1)

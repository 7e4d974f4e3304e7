"""Inner products of pairs of vectors in float64."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from landmark.processes import notice

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_GATHERED_VALUES = 2**25  # float64 values of pairs that are gathered together: 256 MB


def pair_products(
    query: "Tensor", gallery: "Tensor", queries: "Tensor", rows: "Tensor"
) -> "Tensor":
    """Return the inner products of pairs of queries and gallery rows.

    The product of a pair does not depend on the other pairs, so equal vectors have equal products.

    Args:
        query: (Q, D) float64.
        gallery: (N, D) float64.
        queries: Query of each pair, ascending, (P,).
        rows: Row of each pair, (P,).

    Returns:
        (P,) float64; -inf instead of NaN.

    Example:
        >>> import torch
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> pair_products(eye, eye, torch.tensor([0, 1]), torch.tensor([1, 1])).tolist()
        [0.0, 1.0]
    """
    import torch

    if query.device.type == "cpu":
        starts = torch.zeros(len(query) + 1, dtype=torch.int64)
        torch.cumsum(torch.bincount(queries, minlength=len(query)), 0, out=starts[1:])
        values, shape = query.new_zeros(len(rows)), (len(query), len(gallery))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            pairs = torch.sparse_csr_tensor(starts, rows, values, shape, check_invariants=False)
        # It reads the vectors of each pair in place.
        products = torch.sparse.sampled_addmm(pairs, query, gallery.T, beta=0).values()
    elif kernel := pair_kernel(query.device):
        products = kernel(query, gallery, queries, rows)
    else:
        size = max(1, _GATHERED_VALUES // query.shape[1])
        parts = zip(queries.split(size), rows.split(size), strict=True)
        products = torch.cat([_row_sums(query[at] * gallery[row]) for at, row in parts])
    return products.nan_to_num(-torch.inf, torch.inf, -torch.inf)


@cache
def pair_kernel(device: "torch.device") -> "Callable[..., Tensor] | None":
    """Return the Triton kernel of a GPU, or None where it cannot be used.

    It needs triton, which comes with PyTorch on Linux, and a C compiler. It is tried first: its
    products must be right, and those of a pair the same among other pairs.

    Example:
        >>> import torch
        >>> pair_kernel(torch.device("cpu")) is None
        True
    """
    if device.type != "cuda":
        return None
    try:
        from landmark.search.triton_kernel import inner_products

        reason = _fault(inner_products, device)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if reason:
        notice(
            f"Exact search on {device} uses PyTorch operations, not its faster Triton kernel "
            f"({reason}). Install triton and a C compiler."
        )
        return None
    return inner_products


def _fault(products: "Callable[..., Tensor]", device: "torch.device") -> str:
    """Try a kernel on drawn vectors; return what is wrong with it, or nothing."""
    import torch

    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, 99, 515, generator=random, dtype=torch.float64).to(device)
    at = torch.randint(99, (2, 9999), generator=random).to(device)
    found = products(*vectors, *at)
    expected = (vectors[0][at[0]] * vectors[1][at[1]]).sum(1)
    if not torch.allclose(found, expected, rtol=0, atol=1e-10):
        return "its products are wrong"
    some = at.T.contiguous().T[:, 77:1234]  # not contiguous, like the positions in a mask
    if not torch.equal(products(*vectors, *some), found[77:1234]):
        return "a product depends on the other pairs"
    return ""


def _row_sums(values: "Tensor") -> "Tensor":
    """Sum rows (P, D) by halves, in an order that does not depend on P; overwrites `values`.

    That of `sum` on a GPU does, so that the products of duplicates in two tiles would differ.
    """
    width = values.shape[1]
    while width > 1:
        half = (width + 1) // 2
        values[:, : width - half] += values[:, half:width]
        width = half
    return values[:, 0]


def tensor_of(array: np.ndarray) -> "Tensor":
    """Return a tensor that shares the memory of an array, which may be read-only.

    Example:
        >>> tensor_of(np.array([0.5], np.float32)).tolist()
        [0.5]
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)

"""Inner products of pairs of vectors on a GPU, which reads the vectors in place."""

import torch
import triton
from torch import Tensor
from triton import language as tl

# Pairs of a program, and dimensions that it reads together: the fastest of nine on an H200.
_PAIRS, _DIMS = 8, 64
_ALIGNED = 16  # bytes, which the order of a sum may depend on


# One kernel for any number of pairs and any place of them in memory, so that the product of a pair
# is always summed in the same order.
@triton.jit(do_not_specialize=["pairs"], do_not_specialize_on_alignment=["queries", "rows", "out"])
def _products(  # type: ignore[no-untyped-def]  # Triton evaluates annotations
    query,  # noqa: ANN001
    gallery,  # noqa: ANN001
    queries,  # noqa: ANN001
    rows,  # noqa: ANN001
    out,  # noqa: ANN001
    pairs,  # noqa: ANN001
    dim,  # noqa: ANN001
    pairs_together: tl.constexpr,
    dims_together: tl.constexpr,
) -> None:
    pair = tl.program_id(0).to(tl.int64) * pairs_together + tl.arange(0, pairs_together)
    exists = pair < pairs
    left = query + tl.load(queries + pair, mask=exists, other=0)[:, None] * dim
    right = gallery + tl.load(rows + pair, mask=exists, other=0)[:, None] * dim
    sums = tl.zeros((pairs_together, dims_together), tl.float64)
    for first in range(0, dim, dims_together):
        column = first + tl.arange(0, dims_together)[None, :]
        inside = exists[:, None] & (column < dim)
        sums += tl.load(left + column, mask=inside, other=0) * tl.load(
            right + column, mask=inside, other=0
        )
    tl.store(out + pair, tl.sum(sums, 1), mask=exists)


def inner_products(query: Tensor, gallery: Tensor, queries: Tensor, rows: Tensor) -> Tensor:
    """Return the inner products (P,) of pairs; the product of a pair depends on nothing else.

    Args:
        query: (Q, D) float64 on a GPU, as the others are.
        gallery: (N, D) float64.
        queries: Query of each pair, (P,).
        rows: Row of each pair, (P,).

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64, device="cuda")  # doctest: +SKIP
        >>> at = torch.tensor([0, 1], device="cuda")  # doctest: +SKIP
        >>> inner_products(eye, eye, at, at).tolist()  # doctest: +SKIP
        [1.0, 1.0]
    """
    query, gallery, queries, rows = (one.contiguous() for one in (query, gallery, queries, rows))
    query, gallery = (one.clone() if one.data_ptr() % _ALIGNED else one for one in (query, gallery))
    out = query.new_empty(len(rows))
    grid = (triton.cdiv(len(rows), _PAIRS),)
    with torch.cuda.device_of(query):
        _products[grid](
            query,
            gallery,
            queries,
            rows,
            out,
            len(rows),
            query.shape[1],
            pairs_together=_PAIRS,
            dims_together=_DIMS,
        )
    return out

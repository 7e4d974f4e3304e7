"""Optimal transport between the local descriptors of two photos, batched and differentiable."""

from typing import Any

import torch
from torch import Tensor, nn

# Beyond these exponents products of the kernel and its scales leave the range of float32.
_LARGEST_EXPONENT = 40.0
_NEVER = -1e30  # logarithm of 0


def transport(
    similarities: Tensor,
    query_dust: Tensor | float | None,
    gallery_dust: Tensor | float | None = None,
    corner: Tensor | float | None = None,
    query_padding: Tensor | None = None,
    gallery_padding: Tensor | None = None,
    temperature: float = 10.0,
    iterations: int = 10,
    count_padding: bool = False,
) -> Tensor:
    """Transport the mass of each query row to the gallery rows, and what does not fit to the dust.

    Every row and column has the mass 1. The similarities get a further column and row, the dust,
    with the masses M and N. The last iteration of Sinkhorn ends with a column step: the columns sum
    to at most 1, the rows only in the limit, so query and gallery cannot be swapped.

    Args:
        similarities: (B, M, N).
        query_dust: Similarity of the query rows to the dust, (B, M) or a number. None means that
            there is no dust.
        gallery_dust: Similarity of the gallery rows to the dust, (B, N) or a number. Defaults to
            `query_dust`.
        corner: Similarity of the dust to itself, a scalar. Defaults to `query_dust`.
        query_padding: (B, M), True = padding. Defaults to none.
        gallery_padding: (B, N), True = padding. Defaults to none.
        temperature: Factor of the similarities in the exponent.
        iterations: Number of row and column steps.
        count_padding: Count padding in M and N, and let it send mass to the dust, as the published
            code does. The result then depends on the padding.

    Returns:
        (B, M, N) transported mass, 0 at padding.

    Source:
        Sarlin et al.: SuperGlue. CVPR 2020, section 3.2. Suma et al.: ELViS. ICLR 2026, arXiv
        2603.28603.

    Example:
        >>> mass = transport(torch.tensor([[[0.9, -0.9], [-0.9, -0.9]]]), 0.0)
        >>> [[round(value, 2) for value in row] for row in mass[0].tolist()]
        [[0.93, 0.0], [0.0, 0.0]]
    """
    batch, m, n = similarities.shape
    rows, columns = similarities.new_ones(batch, m), similarities.new_ones(batch, n)
    closed = None  # pairs without transport, (B, M, N)
    if query_padding is not None or gallery_padding is not None:
        padded_rows = _padding(query_padding, rows)
        padded_columns = _padding(gallery_padding, columns)
        closed = padded_rows[:, :, None] | padded_columns[:, None]
        if not count_padding or query_dust is None:
            rows, columns = rows.masked_fill(padded_rows, 0), columns.masked_fill(padded_columns, 0)
    if query_dust is not None:
        similarities = _augmented(similarities, query_dust, gallery_dust, corner)
        if closed is not None:
            closed = nn.functional.pad(closed, (0, 1, 0, 1))
            closed[:, :m, n], closed[:, m, :n] = rows == 0, columns == 0
        total_rows, total_columns = rows.sum(1, keepdim=True), columns.sum(1, keepdim=True)
        rows = torch.cat([rows, total_columns], 1)  # (B, M + 1)
        columns = torch.cat([columns, total_rows], 1)  # (B, N + 1)
    exponents = temperature * similarities
    if closed is not None:
        exponents = exponents.masked_fill(closed, -torch.inf)
    return _scaled(exponents, rows, columns, iterations)[:, :m, :n]


def _padding(padding: Tensor | None, counted: Tensor) -> Tensor:
    """Return the padding (B, n), none by default.

    Raises:
        ValueError: Its shape is not that of `counted`.
    """
    if padding is None:
        return torch.zeros_like(counted, dtype=torch.bool)
    if padding.shape != counted.shape:
        raise ValueError(f"padding {tuple(padding.shape)} of descriptors {tuple(counted.shape)}")
    return padding


def _augmented(
    similarities: Tensor,
    query_dust: Tensor | float,
    gallery_dust: Tensor | float | None,
    corner: Tensor | float | None,
) -> Tensor:
    """Append the column and row of the dust: (B, M, N) → (B, M + 1, N + 1)."""
    batch, m, n = similarities.shape
    column, row, last = (
        torch.as_tensor(
            query_dust if value is None else value,
            dtype=similarities.dtype,
            device=similarities.device,
        )
        for value in (query_dust, gallery_dust, corner)
    )
    right = column.expand(batch, m)[:, :, None]
    below = torch.cat([row.expand(batch, n), last.expand(batch, 1)], 1)[:, None]
    return torch.cat([torch.cat([similarities, right], 2), below], 1)


def _scaled(exponents: Tensor, rows: Tensor, columns: Tensor, iterations: int) -> Tensor:
    """Scale exp(exponents) (B, m, n) to the masses of its rows (B, m) and columns (B, n)."""
    finite = exponents.detach().nan_to_num(neginf=0.0)
    if finite.numel() and float(finite.abs().max()) > _LARGEST_EXPONENT:
        return _scaled_logarithms(exponents, rows, columns, iterations)
    scaled: Tensor = _Scaling.apply(exponents.exp(), rows, columns, iterations)
    return scaled


def _scaled_logarithms(exponents: Tensor, rows: Tensor, columns: Tensor, iterations: int) -> Tensor:
    """Compute `_scaled` in logarithms: slower, for exponents of any size."""
    exponents = exponents.masked_fill(exponents.isneginf(), _NEVER)  # rows of -inf give NaN

    def step(others: Tensor, masses: Tensor, axis: int) -> Tensor:
        totals = (exponents + others).logsumexp(axis, keepdim=True)
        is_empty = (masses == 0).unsqueeze(axis)
        return masses.log().clamp(min=_NEVER).unsqueeze(axis) - totals.masked_fill(is_empty, 0)

    row_scales, column_scales = exponents.new_zeros(()), exponents.new_zeros(())
    for _ in range(iterations):
        row_scales = step(column_scales, rows, 2)
        column_scales = step(row_scales, columns, 1)
    return (exponents + row_scales + column_scales).exp()


class _Scaling(torch.autograd.Function):
    """Sinkhorn's iterations on a kernel (B, m, n), whose gradient needs one product of matrices.

    A step is r = a / (K c), or c = b / (Kᵀ r). Its gradient on K is an outer product of two
    vectors: those of all steps are stacked and multiplied once.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        kernel: Tensor,
        rows: Tensor,
        columns: Tensor,
        iterations: int,
    ) -> Tensor:
        r, c = rows, torch.ones_like(columns)
        steps = [c]
        inverses = []
        for _ in range(iterations):
            inverse = _inverse(kernel @ c[:, :, None], rows)
            r = rows * inverse
            inverses.append(inverse)
            steps.append(r)
            inverse = _inverse(kernel.mT @ r[:, :, None], columns)
            c = columns * inverse
            inverses.append(inverse)
            steps.append(c)
        ctx.save_for_backward(kernel, *steps, *inverses)
        return kernel * r[:, :, None] * c[:, None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        kernel, *saved = ctx.saved_tensors
        count = len(saved) // 2
        steps, inverses = saved[: count + 1], saved[count + 1 :]
        weighted = gradient * kernel
        r, c = steps[-2], steps[-1]
        of_rows = (weighted @ c[:, :, None])[:, :, 0]
        of_columns = (weighted.mT @ r[:, :, None])[:, :, 0]
        left, right = [], []
        for index in range(count - 1, 0, -2):
            own = -steps[index + 1] * inverses[index] * of_columns
            left.append(steps[index])
            right.append(own)
            of_rows = of_rows + (kernel @ own[:, :, None])[:, :, 0]
            own = -steps[index] * inverses[index - 1] * of_rows
            left.append(own)
            right.append(steps[index - 1])
            of_columns = (kernel.mT @ own[:, :, None])[:, :, 0]
            of_rows = torch.zeros_like(of_rows)
        of_kernel = gradient * r[:, :, None] * c[:, None]
        of_kernel += torch.stack(left, 2) @ torch.stack(right, 1)
        return of_kernel, None, None, None


def _inverse(totals: Tensor, masses: Tensor) -> Tensor:
    """Return 1 / totals (B, n, 1) → (B, n); 0 at padding, which has no mass."""
    return totals[:, :, 0].masked_fill(masses == 0, torch.inf).reciprocal()

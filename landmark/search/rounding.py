"""Vectors rounded to a faster type, and what that can change in their inner products."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_NORM_ERROR = 1.001  # norms are computed in float32
_LARGEST_PRODUCT = 2.0**120  # beyond it a sum in float32 may overflow


@dataclass(frozen=True)
class Rounded:
    """Vectors in the type in which they are multiplied.

    Attributes:
        values: (N, D), rounded.
        norms: Upper bounds of the norms of the original vectors, (N,) float64 on the host or GPU.
        errors: Upper bounds of the norms of original - rounded, (N,) float64.
    """

    values: "Tensor"
    norms: "Tensor"
    errors: "Tensor"

    def __getitem__(self, part: slice) -> "Rounded":
        """Return rows of the vectors."""
        return Rounded(self.values[part], self.norms[part], self.errors[part])


def rounded(vectors: "Tensor", dtype: "torch.dtype", home: "torch.device") -> Rounded:
    """Round vectors to `dtype` and bound what that changes.

    Args:
        vectors: (N, D) float32.
        dtype: bfloat16, float16, float32 or float64.
        home: Device of the bounds; one that has float64.

    Example:
        >>> import torch
        >>> half = rounded(torch.tensor([[0.6, 0.8]]), torch.bfloat16, torch.device("cpu"))
        >>> half.values.tolist(), 0.0017 < half.errors.item() < 0.0018
        ([[0.6015625, 0.80078125]], True)
    """
    import torch

    values = vectors.to(dtype)
    if dtype == torch.float64:
        norms = torch.linalg.vector_norm(values, dim=1).to(home) * _NORM_ERROR
        return Rounded(values, norms, torch.zeros_like(norms))
    # Values below 2^-63 vanish in a float32 norm, as their squares are below its range.
    lost = vectors.shape[1] ** 0.5 * 2.0**-63

    def bound(rows: "Tensor") -> "Tensor":
        return torch.linalg.vector_norm(rows, dim=1).to(home).double() * _NORM_ERROR + lost

    norms = bound(vectors)
    if dtype == torch.float32:
        return Rounded(values, norms, torch.zeros_like(norms))
    return Rounded(values, norms, bound(values.float().sub_(vectors)))


def product_errors(query: Rounded, gallery: Rounded) -> "Tensor":
    """Bound the error of computed inner products, for each query over all gallery vectors.

    For rounded vectors q' and x', |q·x - q'·x'| <= ‖q - q'‖ ‖x‖ + ‖q'‖ ‖x - x'‖. A sum of D
    products in any order, in arithmetic of unit roundoff u, adds at most γ ‖q'‖ ‖x'‖ with
    γ = D u / (1 - D u), and underflow at most D times the smallest normal number. The last
    rounding, to the type of the result, is not included: it is monotone, so a threshold in that
    type needs no margin for it (see `rounded_down`).

    Args:
        query: (Q, D).
        gallery: (N, D), N >= 1.

    Returns:
        (Q,) float64; infinite where a sum could overflow or a vector is not finite.

    Source:
        Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.

    Example:
        >>> import torch
        >>> unit, cpu = torch.nn.functional.normalize(torch.ones(1, 512)), torch.device("cpu")
        >>> one = rounded(unit, torch.float32, cpu)
        >>> 2e-5 < product_errors(one, one).item() < 4e-5
        True
    """
    import torch

    dim = query.values.shape[1]
    is_wide = query.values.dtype == torch.float64
    terms = (dim + 2) * 2.0 ** (-53 if is_wide else -24)
    underflow = 2.0 ** (-1021 if is_wide else -125)
    norm, error = gallery.norms.max(), gallery.errors.max()
    rounded_norms = query.norms + query.errors
    bound = query.errors * norm + rounded_norms * error
    bound += terms / (1 - terms) * rounded_norms * (norm + error)
    bound += underflow * (dim + dim**0.5 * (query.norms + norm))
    largest = rounded_norms * (norm + error)
    is_safe = bound.isfinite() & (is_wide | (largest < _LARGEST_PRODUCT))
    return torch.where(is_safe, bound, torch.inf)


def rounded_down(values: "Tensor", dtype: "torch.dtype") -> "Tensor":
    """Return the largest numbers of `dtype` that are not above `values` (float64).

    Example:
        >>> import torch
        >>> rounded_down(torch.tensor([0.6, -0.6], dtype=torch.float64), torch.bfloat16).tolist()
        [0.59765625, -0.6015625]
    """
    import torch

    nearest = values.to(dtype)
    if dtype == torch.float64:
        return nearest
    integer = torch.int32 if dtype == torch.float32 else torch.int16
    bits = nearest.view(integer)
    # The bits of a number are its sign and an integer that grows with its magnitude.
    first_below_zero = torch.iinfo(integer).min + 1
    below = torch.where(nearest > 0, bits - 1, torch.where(nearest < 0, bits + 1, first_below_zero))
    return torch.where(nearest.double() > values, below.to(integer), bits).view(dtype)


@contextmanager
def full_accumulation() -> Iterator[None]:
    """Multiply float32 as float32, and accumulate 16-bit products in float32, for the block.

    Autocast and `torch.set_float32_matmul_precision`, such as of a training in this process, would
    round more than the bounds include.

    Example:
        >>> import torch
        >>> torch.set_float32_matmul_precision("medium")
        >>> with full_accumulation():
        ...     torch.get_float32_matmul_precision()
        'highest'
        >>> torch.get_float32_matmul_precision()
        'medium'
        >>> torch.set_float32_matmul_precision("highest")
    """
    import torch

    cuda = torch.backends.cuda.matmul
    names = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    before = {name: getattr(cuda, name) for name in names}
    for name in names:
        setattr(cuda, name, False)
    try:
        with _float32_products(), torch.autocast("cpu", enabled=False):
            if not torch.cuda.is_available():
                yield
                return
            with torch.autocast("cuda", enabled=False):
                yield
    finally:
        for name, value in before.items():
            setattr(cuda, name, value)


@contextmanager
def _float32_products() -> Iterator[None]:
    import torch

    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # set for each backend, which the call above does not describe
        backends = [torch.backends.mkldnn.matmul, torch.backends.cuda.matmul]  # type: ignore[attr-defined]
        each = [backend.fp32_precision for backend in backends]
        for backend in backends:
            backend.fp32_precision = "ieee"
        try:
            yield
        finally:
            for backend, value in zip(backends, each, strict=True):
                backend.fp32_precision = value
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
